package preload

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	confs "github.com/containerd/continuity/fs"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/identity"

	"github.com/nodeimg/nodeimg/preload/trees"
	"github.com/nodeimg/nodeimg/recipes"
)

// fileLayer is a layer with a folder dir and a file in it for each name.
func fileLayer(t *testing.T, dir string, names ...string) v1.Layer {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	write := func(h *tar.Header, content string) {
		h.ModTime, h.Uid, h.Gid, h.Size = epoch, 1234, 70000, int64(len(content))
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, content); err != nil {
			t.Fatal(err)
		}
	}
	write(&tar.Header{Name: dir + "/", Typeflag: tar.TypeDir, Mode: 0o1775}, "")
	for _, name := range names {
		write(&tar.Header{Name: dir + "/" + name, Typeflag: tar.TypeReg, Mode: 0o4711}, strings.Repeat(name, 3000))
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	layer, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(b.Bytes())), nil })
	if err != nil {
		t.Fatal(err)
	}
	return layer
}

// layered is an image for the tests' platform with the layers.
func layered(t *testing.T, layers ...v1.Layer) v1.Image {
	t.Helper()
	image, err := mutate.ConfigFile(empty.Image, &v1.ConfigFile{OS: "linux", Architecture: "amd64", RootFS: v1.RootFS{Type: "layers"}})
	if err != nil {
		t.Fatal(err)
	}
	if image, err = mutate.AppendLayers(image, layers...); err != nil {
		t.Fatal(err)
	}
	return image
}

// plant unpacks the layers of the images, in which nothing is deleted, into the folder of snapshots below dir.
func plant(t *testing.T, s *Sources, locked []recipes.LockedImage, dir string) []trees.Snapshot {
	t.Helper()
	var list []trees.Snapshot
	for _, image := range locked {
		parts, err := ReadParts(s.Cache, image)
		if err != nil {
			t.Fatal(err)
		}
		var parent digest.Digest
		for i, chain := range identity.ChainIDs(parts.DiffIDs) {
			tree := filepath.Join(dir, "snapshots", chain.Encoded(), "fs")
			if err := os.MkdirAll(tree, 0o755); err != nil {
				t.Fatal(err)
			}
			out, err := exec.CommandContext(t.Context(), "tar", "-x", "-z", "-p", "--numeric-owner", "-C", tree, "-f", s.Cache.Path(parts.Layers[i].Digest)).CombinedOutput()
			if err != nil {
				t.Fatalf("%v: %s", err, out)
			}
			usage, err := confs.DiskUsage(t.Context(), tree)
			if err != nil {
				t.Fatal(err)
			}
			list = append(list, trees.Snapshot{ChainID: chain, Parent: parent, Size: usage.Size, Inodes: usage.Inodes})
			parent = chain
		}
	}
	return list
}

// snapshotInfo is what containerd says of a snapshot but for its times, and its usage.
func (n *node) snapshotInfo(t *testing.T, chain digest.Digest) string {
	t.Helper()
	var info map[string]any
	if err := json.Unmarshal([]byte(n.ctr(t, "snapshots", "info", chain.String())), &info); err != nil {
		t.Fatal(err)
	}
	delete(info, "Created")
	delete(info, "Updated")
	b, err := json.Marshal(info)
	if err != nil {
		t.Fatal(err)
	}
	return string(b) + lineOf(n.ctr(t, "snapshots", "usage", "-b", chain.String()), chain.String())
}

// mounted returns what a container of the image would see: type, mode, owner, size, time and content of everything.
func (n *node) mounted(t *testing.T, reference string) string {
	t.Helper()
	dir := t.TempDir()
	n.ctr(t, "images", "mount", "--rw", reference, dir)
	defer n.ctr(t, "images", "unmount", "--rm", dir)
	out, err := exec.CommandContext(t.Context(), "sh", "-c", `cd "$1" && find . -mindepth 1 -printf '%p %y %m %U %G %n %Ts\n' | sort && find . -type f -exec md5sum {} + | sort && : >written`, "find", dir).CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return string(out)
}

func TestContainerdUsesTheTrees(t *testing.T) {
	p, s := startRegistry(t), newSources(t)
	base := fileLayer(t, "etc", "os-release")
	p.push(t, "one:1", layered(t, base, fileLayer(t, "one", "a", "b"), fileLayer(t, "etc", "one")))
	p.push(t, "two:1", layered(t, base, fileLayer(t, "two", "c")))
	var locked []recipes.LockedImage
	for _, reference := range []string{p.host + "/one:1", p.host + "/two:1"} {
		locked = append(locked, mustResolve(t, s, recipes.ImageSource{Registry: reference})...)
	}
	mustFetch(t, s, locked)
	dir, root := t.TempDir(), t.TempDir()
	list := plant(t, s, locked, dir)
	layOut(t, s, locked, list, dir)
	before := stamps(t, dir)
	boot(t, dir, root)
	n := startNode(t, root)

	// What a pull from the registry leaves is the measure.
	pulled := startNode(t, t.TempDir())
	for _, image := range locked {
		pulled.ctr(t, "images", "pull", "--plain-http", image.Reference)
		if line := lineOf(n.ctr(t, "images", "check"), image.Reference); !strings.Contains(line, "complete (") || strings.Contains(line, "incomplete") || !strings.HasSuffix(strings.TrimSpace(line), "true") {
			t.Errorf("%s is not complete and unpacked: %q", image.Reference, line)
		}
	}
	if len(n.cri(t)) != 2 {
		t.Errorf("the CRI plugin knows %v", n.cri(t))
	}
	if got := len(strings.Fields(n.ctr(t, "snapshots", "ls"))); got != 3+3*3+1*2 {
		t.Errorf("%d words in the list of snapshots:\n%s", got, n.ctr(t, "snapshots", "ls"))
	}
	for _, snapshot := range list {
		if got, want := n.snapshotInfo(t, snapshot.ChainID), pulled.snapshotInfo(t, snapshot.ChainID); got != want || !strings.Contains(got, "containerd.io/snapshot.ref") {
			t.Errorf("snapshot %s is\n%s\nafter a pull\n%s", snapshot.ChainID, got, want)
		}
	}
	list2 := pulled.ctr(t, "content", "ls")
	for line := range strings.Lines(n.ctr(t, "content", "ls")) {
		fields := strings.Fields(line)
		if fields[0] == "DIGEST" {
			continue
		}
		want := strings.Fields(lineOf(list2, fields[0]))
		// A pull names only the first repository of a blob that it has already.
		labels := strings.Replace(fields[len(fields)-1], "=one,two", "=one", 1)
		if labels != want[len(want)-1] || fields[1] != want[1] {
			t.Errorf("blob %v\nafter a pull %v", fields, want)
		}
	}
	for _, image := range locked {
		// Writing into the containers must not reach the trees either.
		if got, want := n.mounted(t, image.Reference), pulled.mounted(t, image.Reference); got != want || strings.Count(got, "os-release") != 2 {
			t.Errorf("a container of %s sees\n%s\nafter a pull\n%s", image.Reference, got, want)
		}
	}
	folder := filepath.Join(root, "io.containerd.snapshotter.v1.overlayfs", "snapshots")
	n.collect(t)
	if left := countFiles(t, folder); left != 4 {
		t.Errorf("after collecting garbage there are %d snapshots", left)
	}

	// A container that runs keeps the trees of an image that is removed.
	view := t.TempDir()
	n.ctr(t, "images", "mount", "--rw", locked[0].Reference, view)
	n.remove(t, locked[0].Digest)
	n.collect(t)
	if _, err := os.Stat(filepath.Join(view, "one", "a")); err != nil || countFiles(t, folder) != 5 {
		t.Errorf("under a running container: %v, %d snapshots", err, countFiles(t, folder))
	}
	n.ctr(t, "images", "unmount", "--rm", view)
	n.collect(t)
	// The base is the other image's too.
	if left := countFiles(t, folder); left != 2 {
		t.Errorf("after the first image there are %d snapshots:\n%s", left, n.ctr(t, "snapshots", "ls"))
	}
	n.stop(t)
	if boot(t, dir, root) {
		t.Error("the second boot asks for registering")
	}
	again := startNode(t, root)
	if got := again.ctr(t, "images", "ls", "-q"); strings.Contains(got, locked[0].Reference) || !strings.Contains(got, locked[1].Reference) {
		t.Errorf("after the second boot there are\n%s", got)
	}
	if got, want := again.mounted(t, locked[1].Reference), pulled.mounted(t, locked[1].Reference); got != want {
		t.Errorf("after the second boot a container sees\n%s\nwant\n%s", got, want)
	}
	again.remove(t, locked[1].Digest)
	again.collect(t)
	if left := countFiles(t, folder); left != 0 {
		t.Errorf("%d snapshots are left of removed images", left)
	}
	// An image that was removed can be pulled again; then it is the node's own.
	again.ctr(t, "images", "pull", "--plain-http", locked[0].Reference)
	if got, want := again.mounted(t, locked[0].Reference), pulled.mounted(t, locked[0].Reference); got != want {
		t.Errorf("pulled again a container sees\n%s\nwant\n%s", got, want)
	}
	sameStamps(t, before, stamps(t, dir))
}

// remove removes all names of what has the digest.
func (n *node) remove(t *testing.T, target string) {
	t.Helper()
	var names []string
	for line := range strings.Lines(n.ctr(t, "images", "ls")) {
		if fields := strings.Fields(line); fields[2] == target {
			names = append(names, fields[0])
		}
	}
	if len(names) == 0 {
		t.Fatalf("nothing has the digest %s", target)
	}
	n.ctr(t, append([]string{"images", "rm", "--sync"}, names...)...)
}

// TestNativeSnapshotterUnpacksTheBlobs is about a node whose /var takes no overlayfs: there the trees are of no use.
func TestNativeSnapshotterUnpacksTheBlobs(t *testing.T) {
	p, s := startRegistry(t), newSources(t)
	p.push(t, "one:1", layered(t, fileLayer(t, "etc", "os-release"), fileLayer(t, "one", "a", "b")))
	locked := mustResolve(t, s, recipes.ImageSource{Registry: p.host + "/one:1"})
	mustFetch(t, s, locked)
	dir, root := t.TempDir(), t.TempDir()
	layOut(t, s, locked, plant(t, s, locked, dir), dir)
	boot(t, dir, root)
	n := startNode(t, root)
	overlay := n.mounted(t, locked[0].Reference)
	view := t.TempDir()
	n.ctr(t, "images", "mount", "--snapshotter", "native", locked[0].Reference, view)
	defer n.ctr(t, "images", "unmount", "--snapshotter", "native", "--rm", view)
	if b, err := os.ReadFile(filepath.Join(view, "one", "a")); err != nil || len(b) != 3000 {
		t.Errorf("the native snapshotter has %d bytes: %v", len(b), err)
	}
	n.collect(t)
	if again := n.mounted(t, locked[0].Reference); again != overlay {
		t.Errorf("overlayfs afterwards:\n%s\nbefore:\n%s", again, overlay)
	}
}

// TestStateIsSmall measures containerd's whole root right after the start of a node with thirty images that are built as most are: a base
// that they share, and a layer of their own.
func TestStateIsSmall(t *testing.T) {
	p, s := startRegistry(t), newSources(t)
	base := []v1.Layer{fileLayer(t, "etc", "os-release"), fileLayer(t, "usr", "lib"), fileLayer(t, "var", "log")}
	var locked []recipes.LockedImage
	for i := range 30 {
		reference := p.push(t, fmt.Sprintf("app-%d:v1", i), layered(t, append(base, fileLayer(t, "app", fmt.Sprint(i)))...))
		locked = append(locked, mustResolve(t, s, recipes.ImageSource{Registry: reference})...)
	}
	mustFetch(t, s, locked)
	dir, root := layOut(t, s, locked, unpackedAs(t, s, locked), t.TempDir()), t.TempDir()
	boot(t, dir, root)
	n := startNode(t, root)
	if known := len(n.cri(t)); known != 30 {
		t.Errorf("the CRI plugin knows %d images", known)
	}
	out, err := exec.CommandContext(t.Context(), "du", "-sk", root).Output()
	if err != nil {
		t.Fatal(err)
	}
	var kilobytes int
	if _, err := fmt.Sscan(string(out), &kilobytes); err != nil || kilobytes < 100 || kilobytes >= 2048 {
		t.Errorf("du says %q", out)
	}
	t.Logf("%d kB", kilobytes)
}
