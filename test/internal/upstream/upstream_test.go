package upstream

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"sigs.k8s.io/yaml"

	"github.com/nodeimg/nodeimg/internal/cache"
	"github.com/nodeimg/nodeimg/nodeimage"
	"github.com/nodeimg/nodeimg/recipes"
	"github.com/nodeimg/nodeimg/sources"
	"github.com/nodeimg/nodeimg/test/internal/tools"
)

// load reads one shipped recipe, with mirrors added.
func load(t *testing.T, file string, mirrors map[string]string) *recipes.Document {
	t.Helper()
	root, err := tools.Root(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(filepath.Join(root, "recipes", file))
	if err != nil {
		t.Fatal(err)
	}
	lines, err := yaml.Marshal(map[string]any{"mirrors": mirrors})
	if err != nil {
		t.Fatal(err)
	}
	text = append(text, "  "+strings.ReplaceAll(strings.TrimSpace(string(lines)), "\n", "\n  ")+"\n"...)
	path := filepath.Join(t.TempDir(), file)
	if err := os.WriteFile(path, text, 0o644); err != nil {
		t.Fatal(err)
	}
	documents, err := recipes.Load(path, nil)
	if err != nil {
		t.Fatal(err)
	}
	return documents[0]
}

// TestReleaseRecipeIsServed resolves the recipe with source release, from an empty cache, out of what the recipe with source modules
// made.
func TestReleaseRecipeIsServed(t *testing.T) {
	made, err := cache.Open("")
	if err != nil {
		t.Fatal(err)
	}
	server, compiled, err := StartCompiled(t.Context(), made)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(server.Close)

	fresh, err := cache.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	document := load(t, "k8s-node.yaml", server.Mirrors())
	released, err := sources.Resolve(t.Context(), document, sources.Options{Cache: fresh, Epoch: nodeimage.DefaultEpoch})
	if err != nil {
		t.Fatal(err)
	}

	programs := map[string]string{}
	for _, part := range compiled.Parts {
		programs[part.Path] = part.Digest
	}
	for _, part := range released.Parts {
		if programs[part.Path] != part.Digest {
			t.Errorf("%s: downloaded %s, compiled %s", part.Path, part.Digest, programs[part.Path])
		}
		if !strings.HasPrefix(part.Origin, "https://") {
			t.Errorf("%s: origin %q is not the publisher's URL", part.Path, part.Origin)
		}
	}
	for _, role := range []recipes.ImageRole{recipes.RoleControlPlane, recipes.RoleEtcd, recipes.RoleDNS, recipes.RoleSandbox, recipes.RoleCNI, recipes.RoleStorage} {
		if _, ok := released.Image(role); !ok {
			t.Errorf("the lock has no image with role %s", role)
		}
	}
	images := sources.Options{Cache: fresh}.Images(document)
	for _, image := range released.Images {
		if err := images.Fetch(t.Context(), image); err != nil {
			t.Error(err)
		}
	}
	if released.Base.Reference != "docker.io/library/debian:12" {
		t.Errorf("base is %q", released.Base.Reference)
	}
	if len(released.Packages) == 0 {
		t.Error("no package is to be installed: the base image is no plain distribution")
	}
	for _, prefix := range []string{"/dl.k8s.io/", "/github.com/", "/v2/registry.k8s.io/", "/v2/ghcr.io/", "/v2/docker.io/"} {
		if !slices.ContainsFunc(server.Requests(), func(r string) bool { return strings.HasPrefix(r, "GET "+prefix) }) {
			t.Errorf("nothing was asked below %s", prefix)
		}
	}
}
