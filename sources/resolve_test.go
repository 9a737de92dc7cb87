package sources

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/nodeimg/nodeimg/internal/cache"
	"github.com/nodeimg/nodeimg/recipes"
)

// TestRuntimePackages checks that conmon comes from the distribution exactly where nothing else brings it.
func TestRuntimePackages(t *testing.T) {
	for _, test := range []struct {
		cri    recipes.CRIName
		source recipes.KubernetesSource
		want   []string
	}{
		{recipes.CRICRIO, recipes.SourceModules, []string{"conmon"}},
		{recipes.CRICRIO, recipes.SourceRelease, nil},
		{recipes.CRIDocker, recipes.SourceModules, nil},
		{recipes.CRIContainerd, recipes.SourceModules, nil},
	} {
		var spec recipes.Spec
		spec.CRI.Name, spec.Kubernetes.Source = test.cri, test.source
		if got := runtimePackages(spec); !slices.Equal(got, test.want) {
			t.Errorf("%s from %s: %v, want %v", test.cri, test.source, got, test.want)
		}
	}
}

// TestUnknownChecksumIsTheRecipesProblem resolves a runtime that nobody vouches for: the error names the line, before anything is asked.
func TestUnknownChecksumIsTheRecipesProblem(t *testing.T) {
	const text = `apiVersion: nodeimg.dev/v1alpha1
kind: NodeImage
metadata:
  name: node
spec:
  kubernetes:
    version: v1.34.10
  cri:
    name: docker
    version: 28.5.2
`
	path := filepath.Join(t.TempDir(), "recipe.yaml")
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	documents, err := recipes.Load(path, nil)
	if err != nil {
		t.Fatal(err)
	}
	c, err := cache.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	_, err = Resolve(t.Context(), documents[0], Options{Cache: c})
	var input *recipes.InputError
	if !errors.As(err, &input) || !strings.HasPrefix(err.Error(), path+":10:14: spec.cri.version: the project docker publishes no checksums") {
		t.Errorf("got %v", err)
	}
}
