package preload

import (
	"bytes"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/nodeimg/nodeimg/preload/trees"
	"github.com/nodeimg/nodeimg/recipes"
)

// scripts is where the node's boot scripts are.
const scripts = "../dockerfiles/node/containerd/usr/lib/nodeimg"

// nodeStore is /usr/lib/nodeimg of a node with the images, all packed.
func nodeStore(t *testing.T, s *Sources, locked []recipes.LockedImage) string {
	t.Helper()
	return layOut(t, s, locked, nil, t.TempDir())
}

// layOut writes /usr/lib/nodeimg of a node with the images into dir, but for the snapshots' trees.
func layOut(t *testing.T, s *Sources, locked []recipes.LockedImage, unpacked []trees.Snapshot, dir string) string {
	t.Helper()
	writeStore(t, filepath.Join(dir, "store"), s.Cache, locked)
	state, err := Databases(t.Context(), s.Cache, recipes.CRIContainerd, locked, unpacked, epoch)
	if err != nil {
		t.Fatal(err)
	}
	writeFile(t, filepath.Join(dir, "databases", "meta.db"), state.Meta)
	writeFile(t, filepath.Join(dir, "databases", "metadata.db"), state.Snapshots)
	for name, target := range state.Links() {
		link := filepath.Join(dir, "databases", "snapshots", name)
		if err := os.MkdirAll(filepath.Dir(link), 0o755); err != nil {
			t.Fatal(err)
		}
		tree, ok := strings.CutPrefix(target, recipes.SnapshotsPath)
		if !ok {
			t.Fatalf("snapshot %s leads to %s", name, target)
		}
		if err := os.Symlink(filepath.Join(dir, "snapshots", tree), link); err != nil {
			t.Fatal(err)
		}
		// Somebody of whom a user namespace knows nothing.
		if err := os.Lchown(link, 99999, 99999); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// bootEnvironment makes the node's scripts work on the store in dir and containerd's root.
func bootEnvironment(dir, root string) []string {
	return append(os.Environ(), "NODEIMG_STORE="+filepath.Join(dir, "store"), "NODEIMG_DATABASES="+filepath.Join(dir, "databases"),
		"NODEIMG_CONTAINERD_ROOT="+root, "NODEIMG_RUNTIME="+filepath.Join(root, "run"))
}

// boot runs the boot unit's script for the node's store in dir and containerd's root. It says whether the store must be registered.
func boot(t *testing.T, dir, root string) bool {
	t.Helper()
	command := exec.CommandContext(t.Context(), "sh", filepath.Join(scripts, "boot-store.sh"))
	command.Env = bootEnvironment(dir, root)
	if out, err := command.CombinedOutput(); err != nil || len(out) > 0 {
		t.Fatalf("booting: %v: %s", err, out)
	}
	_, err := os.Lstat(filepath.Join(root, "run", "register-store"))
	return err == nil
}

// TestCutShortBootIsBegunAnew ends the boot script after each of its commands and looks what the next boot makes of it.
func TestCutShortBootIsBegunAnew(t *testing.T) {
	s := newSources(t)
	locked := fetched(t, s)
	dir := layOut(t, s, locked, unpackedAs(t, s, locked), t.TempDir())
	whole := t.TempDir()
	if boot(t, dir, whole) {
		t.Error("the first boot asks for registering")
	}
	want := listing(t, whole)
	for _, path := range []string{
		"io.containerd.metadata.v1.bolt/meta.db -rw-------", "io.containerd.snapshotter.v1.overlayfs/metadata.db -rw-------",
		"io.containerd.snapshotter.v1.overlayfs/snapshots/1 Lrwxrwxrwx " + filepath.Join(dir, "snapshots"),
		"io.containerd.content.v1.content/blobs/sha256/",
	} {
		if !strings.Contains(want, path) {
			t.Fatalf("after the boot there is no %s:\n%s", path, want)
		}
	}
	// Another image's, with other snapshots.
	other := layOut(t, s, locked[:1], unpackedAs(t, s, locked[:1]), t.TempDir())
	text, err := os.ReadFile(filepath.Join(scripts, "boot-store.sh"))
	if err != nil {
		t.Fatal(err)
	}
	lines := bytes.SplitAfter(text, []byte("\n"))
	cut := 0
	for i := range lines {
		script := filepath.Join(t.TempDir(), "boot.sh")
		writeFile(t, script, bytes.Join(lines[:i], nil))
		if exec.CommandContext(t.Context(), "sh", "-n", script).Run() != nil {
			continue
		}
		cut++
		for _, first := range []string{dir, other} {
			root := t.TempDir()
			command := exec.CommandContext(t.Context(), "sh", script)
			command.Env = bootEnvironment(first, root)
			if out, err := command.CombinedOutput(); err != nil {
				t.Fatalf("the first %d lines: %v: %s", i, err, out)
			}
			if _, err := os.Stat(filepath.Join(root, "io.containerd.metadata.v1.bolt", "meta.db")); err == nil && first == other {
				continue
			}
			if boot(t, dir, root) || listing(t, root) != want {
				t.Errorf("after a boot that ended at line %d the next leaves\n%s\nwant\n%s", i, listing(t, root), want)
			}
		}
	}
	if cut < 20 {
		t.Errorf("the script was cut in %d places only", cut)
	}
}

// listing is every path below root with its mode, and the target of links, without containerd's own.
func listing(t *testing.T, root string) string {
	t.Helper()
	var b strings.Builder
	err := filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := entry.Info()
		if err != nil {
			return err
		}
		target, _ := os.Readlink(path)
		name, _ := filepath.Rel(root, path)
		fmt.Fprintln(&b, name, info.Mode(), target)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return strings.ReplaceAll(b.String(), root, "ROOT")
}

// TestBootStartsTheSameProgramsForAnyNumberOfImages counts them by standing before each in PATH.
func TestBootStartsTheSameProgramsForAnyNumberOfImages(t *testing.T) {
	s := newSources(t)
	locked := manyImages(t, s, 12)
	shims, log := t.TempDir(), filepath.Join(t.TempDir(), "log")
	for _, name := range []string{"cat", "chmod", "cp", "find", "ln", "mkdir", "mv", "rm", "sha256sum", "sync"} {
		program, err := exec.LookPath(name)
		if err != nil {
			t.Fatal(err)
		}
		writeFile(t, filepath.Join(shims, name), fmt.Appendf(nil, "#!/bin/sh\necho %s >>%s\nexec %s \"$@\"\n", name, log, program))
		if err := os.Chmod(filepath.Join(shims, name), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	// Nothing else is found, so that nothing is forgotten here.
	t.Setenv("PATH", shims)
	counts := map[int]int{}
	for _, n := range []int{1, 12} {
		if err := os.WriteFile(log, nil, 0o644); err != nil {
			t.Fatal(err)
		}
		dir, root := layOut(t, s, locked[:n], unpackedAs(t, s, locked[:n]), t.TempDir()), t.TempDir()
		command := exec.CommandContext(t.Context(), "/bin/sh", filepath.Join(scripts, "boot-store.sh"))
		command.Env = bootEnvironment(dir, root)
		if out, err := command.CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		text, err := os.ReadFile(log)
		if err != nil {
			t.Fatal(err)
		}
		counts[n] = bytes.Count(text, []byte("\n"))
		if links := countFiles(t, filepath.Join(root, "io.containerd.snapshotter.v1.overlayfs", "snapshots")); links < n {
			t.Errorf("%d snapshots for %d images", links, n)
		}
	}
	if counts[1] != counts[12] || counts[1] < 8 || counts[1] > 30 {
		t.Errorf("programs by number of images: %v", counts)
	}
}

// manyImages resolves and fetches n images of four layers each.
func manyImages(t *testing.T, s *Sources, n int) []recipes.LockedImage {
	t.Helper()
	p := startRegistry(t)
	var locked []recipes.LockedImage
	for i := range n {
		reference := p.push(t, fmt.Sprintf("many/image-%d:v1", i), newOCIImage(t, "amd64", 4, 500))
		locked = append(locked, mustResolve(t, s, recipes.ImageSource{Registry: reference})...)
	}
	mustFetch(t, s, locked)
	return locked
}

// TestBootInAUserNamespace runs where root can give a file to nobody else.
func TestBootInAUserNamespace(t *testing.T) {
	s := newSources(t)
	locked := fetched(t, s)
	dir, root, plain := layOut(t, s, locked, unpackedAs(t, s, locked), t.TempDir()), t.TempDir(), t.TempDir()
	script := filepath.Join(scripts, "boot-store.sh")
	command := exec.CommandContext(t.Context(), "unshare", "--user", "--map-root-user", "--mount", "sh", "-c", `! chown 99999 "$NODEIMG_CONTAINERD_ROOT" 2>/dev/null && exec sh "$0"`, script)
	command.Env = bootEnvironment(dir, root)
	if out, err := command.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	boot(t, dir, plain)
	if got, want := listing(t, root), listing(t, plain); got != want {
		t.Errorf("in a user namespace:\n%s\noutside:\n%s", got, want)
	}
}

// stamps is what removing must not touch: every path below the store with its size and times.
func stamps(t *testing.T, dir string) map[string]string {
	t.Helper()
	found := map[string]string{}
	err := filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := entry.Info()
		if err != nil {
			return err
		}
		found[path] = fmt.Sprint(info.Mode(), info.Size(), info.ModTime().UnixNano())
		return nil
	})
	if err != nil || len(found) < 10 {
		t.Fatalf("%d files below %s: %v", len(found), dir, err)
	}
	return found
}

// sameStamps reports paths that differ.
func sameStamps(t *testing.T, before, after map[string]string) {
	t.Helper()
	for _, path := range slices.Sorted(maps.Keys(before)) {
		if before[path] != after[path] {
			t.Errorf("%s was %s and is %q", path, before[path], after[path])
		}
	}
	if len(after) != len(before) {
		t.Errorf("%d files were in the store, %d are", len(before), len(after))
	}
}
