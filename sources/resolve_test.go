package sources

import (
	"slices"
	"testing"

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
