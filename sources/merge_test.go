package sources

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/nodeimg/nodeimg/recipes"
)

func TestMergeImages(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "recipe.yaml")
	text := "apiVersion: nodeimg.dev/v1alpha1\nkind: NodeImage\nmetadata: {name: test}\nspec:\n  kubernetes: {version: v1.34.10}\n  preload:\n    images:\n" +
		"      - a/b:1\n      - archive: \"*.tar\"\n      - docker: a/b:1\n"
	for name, content := range map[string]string{file: text, filepath.Join(dir, "x.tar"): "", filepath.Join(dir, "y.tar"): ""} {
		if err := os.WriteFile(name, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	documents, err := recipes.Load(file, nil)
	if err != nil {
		t.Fatal(err)
	}
	document := documents[0]
	image := func(reference, d string, role recipes.ImageRole, source recipes.ImageSource) recipes.LockedImage {
		return recipes.LockedImage{Reference: reference, Digest: digest.FromString(d).String(), Role: role, Source: source}
	}
	const ab, etcd = "docker.io/a/b:1", "registry.k8s.io/etcd:1"
	registry, x, y, engine := recipes.ImageSource{Registry: ab}, recipes.ImageSource{Archive: "x.tar"}, recipes.ImageSource{Archive: "y.tar"}, recipes.ImageSource{Docker: ab}
	kubernetes := func() []recipes.LockedImage {
		return []recipes.LockedImage{image("registry.k8s.io/pause:3.10", "p", recipes.RoleSandbox, recipes.ImageSource{}), image(etcd, "e", recipes.RoleEtcd, recipes.ImageSource{})}
	}
	user := func(source recipes.ImageSource, reference, d string) []recipes.LockedImage {
		return []recipes.LockedImage{image(reference, d, recipes.RoleUser, source)}
	}

	merged, err := mergeImages(document, kubernetes(), [][]recipes.LockedImage{
		user(registry, ab, "b"), append(user(x, etcd, "e"), user(y, ab, "b")...), user(engine, ab, "b"),
	})
	if err != nil || len(merged) != 3 || merged[0].Source != registry || merged[1].Role != recipes.RoleEtcd {
		t.Errorf("the same digest again: merged to %v, %v", merged, err)
	}
	at := func(line, entry string) string { return file + ":" + line + ":9: spec.preload.images[" + entry + "]: " }
	for name, test := range map[string]struct {
		user [][]recipes.LockedImage
		want []string
	}{
		"two entries": {[][]recipes.LockedImage{user(registry, ab, "b"), nil, user(engine, ab, "other")},
			[]string{at("10", "2") + ab + " is " + digest.FromString("other").String() + " in docker " + ab, "but " + digest.FromString("b").String() + " in registry " + ab + " (spec.preload.images[0], " + file + ":8:9)"}},
		"two archives of a pattern": {[][]recipes.LockedImage{nil, append(user(x, ab, "b"), user(y, ab, "other")...)},
			[]string{at("9", "1") + ab, "in archive y.tar", "in archive x.tar (spec.preload.images[1]"}},
		"Kubernetes' own": {[][]recipes.LockedImage{user(x, etcd, "other")},
			[]string{at("8", "0") + etcd, "in the images that Kubernetes v1.34.10 needs"}},
	} {
		_, err := mergeImages(document, kubernetes(), test.user)
		if !errors.As(err, new(*recipes.InputError)) {
			t.Errorf("%s: got %v, want bad input", name, err)
			continue
		}
		for _, want := range test.want {
			if !strings.Contains(err.Error(), want) {
				t.Errorf("%s: %v\nlacks %q", name, err, want)
			}
		}
	}
}

// TestLeavesOut holds that a node without the control plane's images still has the sandbox, and that others leave out nothing.
func TestLeavesOut(t *testing.T) {
	on, off := true, false
	for _, role := range []recipes.ImageRole{recipes.RoleControlPlane, recipes.RoleEtcd, recipes.RoleDNS, recipes.RoleCNI, recipes.RoleStorage, recipes.RoleSandbox} {
		if leavesOut(recipes.Preload{}, role) || leavesOut(recipes.Preload{ControlPlane: &on}, role) {
			t.Errorf("an image of the role %s is left out", role)
		}
		if got, want := leavesOut(recipes.Preload{ControlPlane: &off}, role), role != recipes.RoleSandbox; got != want {
			t.Errorf("without the control plane, an image of the role %s is left out: %t, want %t", role, got, want)
		}
	}
}
