package preload

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/nodeimg/nodeimg/recipes"
)

// register runs what the node runs after containerd when its state was not made from the store, and returns what it says.
func (n *node) register(t *testing.T, dir string) string {
	t.Helper()
	out, err := n.tryRegister(t, dir, mustPrograms(t))
	if err != nil {
		t.Fatalf("registering: %v: %s\n%s", err, out, n.text(t))
	}
	return out
}

// tryRegister is register with the ctr in the folder programs.
func (n *node) tryRegister(t *testing.T, dir, programs string) (string, error) {
	t.Helper()
	command := exec.CommandContext(t.Context(), "sh", filepath.Join(scripts, "register-store.sh"))
	command.Env = append(bootEnvironment(dir, n.root), "CONTAINERD_ADDRESS="+n.socket, "PATH="+programs+":"+os.Getenv("PATH"))
	out, err := command.CombinedOutput()
	return string(out), err
}

// registerUntil runs register with a ctr that dies at its first call, then at its second, and so on until one run needs fewer calls. It
// returns what all runs said.
func (n *node) registerUntil(t *testing.T, dir string) string {
	t.Helper()
	programs, count := t.TempDir(), filepath.Join(t.TempDir(), "count")
	var said strings.Builder
	for allowed := 0; ; allowed++ {
		if allowed == 50 {
			t.Fatalf("it never ends: %s", said.String())
		}
		writeFile(t, count, nil)
		writeFile(t, filepath.Join(programs, "ctr"), fmt.Appendf(nil, "#!/bin/sh\necho >>%s\n[ \"$(wc -l <%s)\" -le %d ] || exit 1\nexec %s/ctr \"$@\"\n", count, count, allowed, mustPrograms(t)))
		if err := os.Chmod(filepath.Join(programs, "ctr"), 0o755); err != nil {
			t.Fatal(err)
		}
		out, err := n.tryRegister(t, dir, programs)
		said.WriteString(out)
		if err == nil {
			if allowed < 3 {
				t.Errorf("it ends with %d calls of ctr", allowed)
			}
			return said.String()
		}
		if _, missing := os.Stat(filepath.Join(n.root, "run", "register-store")); missing != nil {
			t.Fatalf("with %d calls of ctr it takes itself for done: %v: %s", allowed, err, out)
		}
	}
}

// complete reports an image that the CRI plugin does not know as pinned under its tag and digest, or that lacks blobs.
func (n *node) complete(t *testing.T, images ...recipes.LockedImage) {
	t.Helper()
	check := n.ctr(t, "images", "check")
	known := strings.Join(n.cri(t), "")
	for _, image := range images {
		if line := lineOf(check, image.Reference); !strings.Contains(line, " complete (") || !strings.Contains(line, image.Digest) {
			t.Errorf("%s is not complete: %q", image.Reference, line)
		}
		name := image.Reference[:strings.LastIndex(image.Reference, ":")]
		right := false
		for line := range strings.Lines(known) {
			right = right || strings.Contains(line, " true ") && strings.Contains(line, image.Reference) && strings.Contains(line, name+"@"+image.Digest)
		}
		if !right {
			t.Errorf("the CRI plugin does not know %s by tag and digest as pinned: %s", image.Reference, known)
		}
	}
}

// TestStoreIsRegisteredWithAnOlderState is about a containerd that ran before the store was linked, as in a user's own Dockerfile.
func TestStoreIsRegisteredWithAnOlderState(t *testing.T) {
	p, s := startRegistry(t), newSources(t)
	base := fileLayer(t, "etc", "os-release")
	p.push(t, "one:1", layered(t, base, fileLayer(t, "one", "a")))
	p.push(t, "two:1", newIndex(t, map[string]v1.Image{"amd64": layered(t, base, fileLayer(t, "two", "b")), "arm64": newOCIImage(t, "arm64", 1, 100)}))
	p.push(t, "same:1", layered(t, fileLayer(t, "same", "preloaded")))
	locked := resolveAll(t, s, p, "one:1", "two:1", "same:1")
	p.push(t, "mine:1", layered(t, base, fileLayer(t, "mine", "c")))
	p.push(t, "same:1", layered(t, fileLayer(t, "same", "mine")))
	mine := resolveAll(t, s, p, "mine:1", "same:1")

	dir, root := t.TempDir(), t.TempDir()
	layOut(t, s, locked, plant(t, s, locked, dir), dir)
	n := startNode(t, root)
	for _, image := range mine {
		n.ctr(t, "images", "pull", "--plain-http", image.Reference)
	}
	n.stop(t)
	if !boot(t, dir, root) {
		t.Error("a boot over another state does not ask for registering")
	}
	n = startNode(t, root)
	said := n.register(t, dir)
	n.complete(t, locked[:2]...)
	for _, image := range mine {
		if line := lineOf(n.ctr(t, "images", "ls"), image.Reference); !strings.Contains(line, image.Digest) {
			t.Errorf("the user's %s became %q", image.Reference, line)
		}
	}
	if strings.Contains(said, "nodeimg: removed") || strings.Count(said, "nodeimg: registered") != 2 {
		t.Errorf("it says %s", said)
	}
	for _, image := range locked[:2] {
		if got := n.mounted(t, image.Reference); !strings.Contains(got, "./etc/os-release f 4711 1234 70000") {
			t.Errorf("a container of %s sees %s", image.Reference, got)
		}
	}
	// Blobs that the store has are not copied.
	parts, err := readParts(s.Cache, locked[1])
	if err != nil {
		t.Fatal(err)
	}
	for i, d := range parts.layers {
		info, err := os.Lstat(filepath.Join(root, "io.containerd.content.v1.content", "blobs", "sha256", d.Digest.Encoded()))
		// The first layer is the base that the user's image brought.
		if err != nil || (info.Mode()&os.ModeSymlink != 0) != (i > 0) {
			t.Errorf("layer %d: %v, %v", i, info.Mode(), err)
		}
	}
	n.remove(t, locked[0].Digest)
	n.stop(t)
	if boot(t, dir, root) {
		t.Error("it is to be registered twice")
	}
	if again := startNode(t, root); strings.Contains(again.ctr(t, "images", "ls", "-q"), locked[0].Reference) {
		t.Errorf("%s came back", locked[0].Reference)
	}
}

// TestStateOfAnotherNodeImage is about a volume that was used with another node image: images that this one lacks must not look present.
func TestStateOfAnotherNodeImage(t *testing.T) {
	p, s := startRegistry(t), newSources(t)
	base, lost := fileLayer(t, "etc", "os-release"), fileLayer(t, "etc", "lost")
	p.push(t, "keeps:1", layered(t, base, fileLayer(t, "keeps", "a")))
	p.push(t, "removed:1", layered(t, base, fileLayer(t, "removed", "b")))
	p.push(t, "goes:1", layered(t, lost, fileLayer(t, "goes", "c")))
	p.push(t, "changes:1", layered(t, base, fileLayer(t, "changes", "old")))
	first := resolveAll(t, s, p, "keeps:1", "removed:1", "goes:1", "changes:1")
	p.push(t, "changes:1", layered(t, base, fileLayer(t, "changes", "new")))
	p.push(t, "comes:1", layered(t, base, fileLayer(t, "comes", "d")))
	second := resolveAll(t, s, p, "keeps:1", "removed:1", "changes:1", "comes:1")
	p.push(t, "mine:1", layered(t, base, fileLayer(t, "mine", "e")))
	p.push(t, "broken:1", layered(t, lost, fileLayer(t, "broken", "f")))
	mine := resolveAll(t, s, p, "mine:1", "broken:1")

	one, two, root := t.TempDir(), t.TempDir(), t.TempDir()
	layOut(t, s, first, plant(t, s, first, one), one)
	// The second node image is packed: its blobs are there, trees are not.
	layOut(t, s, second, nil, two)
	usr := filepath.Join(t.TempDir(), "nodeimg")
	use := func(dir string) {
		t.Helper()
		_ = os.Remove(usr)
		if err := os.Symlink(dir, usr); err != nil {
			t.Fatal(err)
		}
	}
	// In the first image's links is the folder's real name, which the second one must not find.
	relink(t, filepath.Join(one, "databases", "snapshots"), one, usr)
	use(one)
	boot(t, usr, root)
	n := startNode(t, root)
	for _, image := range mine {
		n.ctr(t, "images", "pull", "--plain-http", image.Reference)
	}
	n.remove(t, first[1].Digest)
	kept := n.mounted(t, first[0].Reference)
	n.stop(t)
	before := stamps(t, one)
	use(two)
	if !boot(t, usr, root) {
		t.Error("the other store does not ask for registering")
	}
	n = startNode(t, root)
	said := n.registerUntil(t, usr)
	n.complete(t, second[0], second[2], second[3])
	list := n.ctr(t, "images", "ls", "-q")
	for _, gone := range []string{first[1].Reference, first[2].Reference, mine[1].Reference} {
		if strings.Contains(list, gone) {
			t.Errorf("%s is still there: %s", gone, list)
		}
	}
	if !strings.Contains(said, first[2].Reference) || !strings.Contains(said, mine[1].Reference) {
		t.Errorf("it does not name what it removed: %s", said)
	}
	if got := n.mounted(t, second[0].Reference); got != kept {
		t.Errorf("%s is now\n%s\nwas\n%s", second[0].Reference, got, kept)
	}
	for reference, file := range map[string]string{second[2].Reference: "./changes/new", second[3].Reference: "./comes/d", mine[0].Reference: "./mine/e"} {
		if got := n.mounted(t, reference); !strings.Contains(got, file+" f 4711") || !strings.Contains(got, "./etc/os-release") {
			t.Errorf("a container of %s sees %s", reference, got)
		}
	}
	// What went can be pulled again.
	n.ctr(t, "images", "pull", "--plain-http", mine[1].Reference)
	if got := n.mounted(t, mine[1].Reference); !strings.Contains(got, "./etc/lost f 4711") || !strings.Contains(got, "./broken/f") {
		t.Errorf("pulled again it holds %s", got)
	}
	n.collect(t)
	n.complete(t, second[0], second[2], second[3])
	n.stop(t)
	sameStamps(t, before, stamps(t, one))
	if boot(t, usr, root) {
		t.Error("it is to be registered twice")
	}
}

// relink makes the links in the folder lead to below instead of above.
func relink(t *testing.T, folder, above, below string) {
	t.Helper()
	entries, err := os.ReadDir(folder)
	if err != nil || len(entries) == 0 {
		t.Fatalf("%d links: %v", len(entries), err)
	}
	for _, entry := range entries {
		link := filepath.Join(folder, entry.Name())
		target, err := os.Readlink(link)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.Remove(link); err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink(strings.Replace(target, above, below, 1), link); err != nil {
			t.Fatal(err)
		}
	}
}

// resolveAll resolves and fetches images of the registry.
func resolveAll(t *testing.T, s *Sources, p *proxy, paths ...string) []recipes.LockedImage {
	t.Helper()
	var locked []recipes.LockedImage
	for _, path := range paths {
		locked = append(locked, mustResolve(t, s, recipes.ImageSource{Registry: p.host + "/" + path})...)
	}
	mustFetch(t, s, locked)
	return locked
}
