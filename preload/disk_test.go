package preload

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/nodeimg/nodeimg/internal/cache"
	"github.com/nodeimg/nodeimg/recipes"
)

// inNamespace says that the test runs where its mounts vanish with it.
const inNamespace = "NODEIMG_TEST_NAMESPACE"

func TestFullDisk(t *testing.T) {
	if os.Getenv(inNamespace) == "" {
		command := exec.CommandContext(t.Context(), "unshare", "--mount", os.Args[0], "-test.run=^TestFullDisk$", "-test.v")
		command.Env = append(os.Environ(), inNamespace+"=1")
		out, err := command.CombinedOutput()
		if err != nil || !strings.Contains(string(out), "--- PASS: TestFullDisk") {
			t.Fatalf("%v: %s", err, out)
		}
		return
	}
	p, s := startRegistry(t), newSources(t)
	image := newImage(t, "amd64", 1, 1<<20)
	reference := p.push(t, "a/b:1", image)
	writeArchive(t, filepath.Join(s.Dir, "app.tar"), "app:1", image)
	for _, src := range []recipes.ImageSource{{Registry: reference}, {Archive: "app.tar"}} {
		disk := t.TempDir()
		if err := syscall.Mount("tmpfs", disk, "tmpfs", 0, "size=256k"); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = syscall.Unmount(disk, 0) })
		var err error
		if s.Cache, err = cache.Open(disk); err != nil {
			t.Fatal(err)
		}
		locked := mustResolve(t, s, src)
		if err := s.Fetch(t.Context(), locked[0]); err == nil || !strings.Contains(err.Error(), "no space left on device") || !strings.Contains(err.Error(), locked[0].Reference) {
			t.Errorf("%s: on a full disk the error is %v", describe(src), err)
		}
		if err := syscall.Mount("tmpfs", disk, "tmpfs", syscall.MS_REMOUNT, "size=16m"); err != nil {
			t.Fatal(err)
		}
		mustFetch(t, s, locked)
		parts, err := readParts(s.Cache, locked[0])
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range parts.all() {
			checkBlob(t, s.Cache, d.Digest)
		}
	}
}
