package sources

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"

	"github.com/nodeimg/nodeimg/internal/cache"
	"github.com/nodeimg/nodeimg/recipes"
)

func TestLockFiles(t *testing.T) {
	dir := t.TempDir()
	for name, mode := range map[string]os.FileMode{"motd": 0o640, "tree/bin/tool": 0o755, "tree/etc/conf": 0o600} {
		file := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(name), mode); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink("conf", filepath.Join(dir, "tree/etc/link")); err != nil {
		t.Fatal(err)
	}
	recipe := filepath.Join(dir, "recipe.yaml")
	text := `apiVersion: nodeimg.dev/v1alpha1
kind: NodeImage
metadata: {name: test}
spec:
  kubernetes: {version: v1.34.10}
  files:
    - {source: tree, target: /opt/tree}
    - {source: motd, target: /etc/motd, mode: "0600"}
`
	if err := os.WriteFile(recipe, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	documents, err := recipes.Load(recipe, nil)
	if err != nil {
		t.Fatal(err)
	}
	c, err := cache.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	got, err := lockFiles(documents[0], c)
	if err != nil {
		t.Fatal(err)
	}
	d := func(s string) string { return digest.FromString(s).String() }
	want := []recipes.LockedFile{
		{Target: "/etc/motd", Mode: "0600", Digest: d("motd"), Size: 4},
		{Target: "/opt/tree/bin/tool", Mode: "0755", Digest: d("tree/bin/tool"), Size: 13},
		{Target: "/opt/tree/etc/conf", Mode: "0600", Digest: d("tree/etc/conf"), Size: 13},
		{Target: "/opt/tree/etc/link", Link: "conf"},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Fatalf("locked files (-want +got):\n%s", diff)
	}
	for _, f := range got {
		if f.Digest != "" && !c.Has(digest.Digest(f.Digest)) {
			t.Errorf("%s is not in the cache", f.Target)
		}
	}

	// The file may vanish between validation and resolving.
	if err := os.Remove(filepath.Join(dir, "motd")); err != nil {
		t.Fatal(err)
	}
	_, err = lockFiles(documents[0], c)
	if !errors.As(err, new(*recipes.InputError)) || !strings.Contains(err.Error(), "recipe.yaml:8:") {
		t.Fatalf("got %v, want an InputError at recipe.yaml:8", err)
	}
}
