package runtimes

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"

	"github.com/nodeimg/nodeimg/internal/cache"
	"github.com/nodeimg/nodeimg/preload/containers"
	"github.com/nodeimg/nodeimg/preload/trees"
	"github.com/nodeimg/nodeimg/recipes"
	"github.com/nodeimg/nodeimg/test/conformance/tree"
	"github.com/nodeimg/nodeimg/test/internal/tools"
)

// additionalStore writes CRI-O's store of the images below the node's root folder dir, and returns the store's.
func additionalStore(t *testing.T, c *cache.Cache, dir string, images []recipes.LockedImage, unpacked []trees.Snapshot) string {
	t.Helper()
	files, err := containers.Files(c, images, unpacked, epoch)
	if err != nil {
		t.Fatal(err)
	}
	root := filepath.Join(dir, recipes.AdditionalStorePath)
	for _, f := range files {
		path := filepath.Join(root, f.Path)
		if f.Link != "" {
			link(t, dir, path, f.Link)
		} else {
			write(t, path, f.Content)
		}
	}
	return root
}

// podman is Podman with a storage of its own.
type podman struct{ root, additional string }

// newPodman makes an empty storage, which may have an additional image store.
func newPodman(t *testing.T, additional string) podman {
	t.Helper()
	// Podman wants short paths.
	root, err := os.MkdirTemp("", "nodeimg-pod-")
	if err != nil {
		t.Fatal(err)
	}
	// The upper folders of overlayfs must not lie on overlayfs, wherever the tests run.
	if err := unix.Mount("runtimes", root, "tmpfs", 0, "mode=0755"); err != nil {
		t.Fatal(err)
	}
	p := podman{root: root, additional: additional}
	t.Cleanup(func() {
		// What a container that failed has left mounted goes too.
		left, err := mountinfo.GetMounts(mountinfo.PrefixFilter(root))
		if err != nil {
			t.Error(err)
		}
		for _, m := range slices.Backward(left) {
			if err := unix.Unmount(m.Mountpoint, unix.MNT_DETACH); err != nil {
				t.Errorf("unmounting %s: %v", m.Mountpoint, err)
			}
		}
		if err := os.Remove(root); err != nil {
			t.Error(err)
		}
	})
	return p
}

func (p podman) args(args ...string) []string {
	list := []string{"--root", filepath.Join(p.root, "graph"), "--runroot", filepath.Join(p.root, "run"), "--storage-driver", "overlay", "--runtime", "runc",
		"--cgroup-manager", "cgroupfs", "--events-backend", "none"}
	if p.additional != "" {
		list = append(list, "--storage-opt", "additionalimagestore="+p.additional)
	}
	return append(list, args...)
}

func (p podman) run(t *testing.T, args ...string) string {
	t.Helper()
	return run(t, "podman", p.args(args...)...)
}

// id is the id of the image that has the name, empty when there is none.
func (p podman) id(t *testing.T, name string) string {
	t.Helper()
	out, failure, err := try(t, "podman", p.args("image", "inspect", "--format", "{{.Id}}", name)...)
	if err != nil && !strings.Contains(failure, "no such image") && !strings.Contains(failure, "image not known") {
		t.Fatalf("inspecting %s: %v: %s", name, err, failure)
	}
	return strings.TrimSpace(out)
}

// mounted is the tree of the image as Podman mounts it for a container. It does not mount images themselves that lie in an additional store.
func (p podman) mounted(t *testing.T, name string) map[string]tree.Entry {
	t.Helper()
	container := strings.TrimSpace(p.run(t, "create", "--pull", "never", "--network", "none", name))
	defer p.run(t, "rm", "--force", container)
	mountpoint := strings.TrimSpace(p.run(t, "mount", container))
	defer p.run(t, "unmount", container)
	return dump(t, mountpoint)
}

// stored is the tree of a container of the image as CRI-O's own version of the library mounts it.
func (p podman) stored(t *testing.T, name string) map[string]tree.Entry {
	t.Helper()
	program, err := tools.ContainersStorage(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	storage := func(args ...string) string {
		return strings.TrimSpace(run(t, program, append([]string{"--graph", filepath.Join(p.root, "own"), "--run", filepath.Join(p.root, "own-run"), "--storage-driver", "overlay",
			"--storage-opt", "overlay.imagestore=" + p.additional}, args...)...))
	}
	container, _, _ := strings.Cut(storage("create-container", name), "\n")
	defer storage("delete-container", container)
	mountpoint := storage("mount", container)
	defer storage("unmount", container)
	return dump(t, mountpoint)
}

// dump reads the tree below a folder.
func dump(t *testing.T, folder string) map[string]tree.Entry {
	t.Helper()
	program, err := tools.Command(t.Context(), "test/conformance/dump")
	if err != nil {
		t.Fatal(err)
	}
	out := filepath.Join(t.TempDir(), "tree")
	run(t, program, folder, out)
	return readTree(t, out)
}

// see runs a container of the image and returns the tree that it sees.
func (p podman) see(t *testing.T, name string) map[string]tree.Entry {
	t.Helper()
	out := t.TempDir()
	p.run(t, "run", "--rm", "--network", "none", "--pull", "never", "--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1024:1024", "-v", out+":/out", name)
	return readTree(t, filepath.Join(out, "tree"))
}

// storageImages pushes images as CRI-O must be able to run them, and returns them by their references.
func storageImages(t *testing.T, host string) (references []string, index, manifest v1.Hash) {
	t.Helper()
	base := baseLayer(t)
	many := []v1.Layer{base}
	for i := range 119 {
		many = append(many, layerOf(t, dir("m"), file(fmt.Sprintf("m/%d", i), fmt.Sprint(i)), file("m/last", fmt.Sprint(i))))
	}
	three := imageOf(t, "amd64", "three", base, layerOf(t, whiteout("d", "old"), dir("d"), whiteout("d", "sub"), file("new", "1")), layerOf(t, file("top", "2")))
	push(t, host+"/one:1", imageOf(t, "amd64", "one", base))
	push(t, host+"/many:1", imageOf(t, "amd64", "many", many...))
	list := indexOf(t, three)
	push(t, host+"/team/three:1", list)
	plain := push(t, host+"/plain:ignored", imageOf(t, "amd64", "plain", base, layerOf(t, dir("d"), file("d/kept", "other")), layerOf(t, file("more", "3"))))
	index, err := list.Digest()
	if err != nil {
		t.Fatal(err)
	}
	if manifest, err = three.Digest(); err != nil {
		t.Fatal(err)
	}
	return []string{host + "/one:1", host + "/many:1", host + "/team/three:1", host + "/plain@" + plain}, index, manifest
}

func TestPodmanReadsTheAdditionalStore(t *testing.T) {
	_, host := startRegistry(t)
	references, index, manifest := storageImages(t, host)
	c, node := newCache(t), t.TempDir()
	locked := lock(t, c, references...)
	additional := additionalStore(t, c, node, locked, plant(t, c, node, recipes.LayoutUnpacked, locked))
	p, pulled := newPodman(t, additional), newPodman(t, "")
	start := time.Now()
	for _, reference := range references {
		pulled.run(t, "pull", "--quiet", "--tls-verify=false", reference)
	}

	for _, name := range slices.Concat(references, []string{
		host + "/team/three@" + index.String(), host + "/team/three@" + manifest.String(), host + "/one", host + "/one:2", host + "/one@" + index.String(),
	}) {
		if got, want := p.id(t, name), pulled.id(t, name); got != want || want == "" && slices.Contains(references, name) {
			t.Errorf("%s is the image %q, after a pull %q", name, got, want)
		}
	}
	var list []struct {
		Names    []string
		ReadOnly bool
		Size     int64
	}
	if err := json.Unmarshal([]byte(p.run(t, "images", "--format", "json")), &list); err != nil {
		t.Fatal(err)
	}
	for _, image := range list {
		if len(image.Names) != 1 || !slices.Contains(references, image.Names[0]) || !image.ReadOnly || image.Size < 1<<20 {
			t.Errorf("podman images lists %+v", image)
		}
	}
	if len(list) != len(references) {
		t.Errorf("podman images lists %+v", list)
	}
	for _, reference := range references {
		want := pulled.mounted(t, reference)
		options := tree.Options{UnpackedFrom: start, UnpackedUntil: time.Now()}
		for _, line := range differences(want, p.stored(t, reference), options) {
			t.Errorf("%s in CRI-O's storage: %s", reference, line)
		}
		skopeo(t, p, reference)
		// Podman 4 looks for the lower folders of more than about sixty layers in the wrong store.
		if strings.HasSuffix(reference, "/many:1") {
			continue
		}
		if len(want) < 10 {
			t.Errorf("after a pull %s has only %d paths", reference, len(want))
		}
		for _, line := range differences(want, p.mounted(t, reference), options) {
			t.Errorf("%s mounted: %s", reference, line)
		}
		want = pulled.see(t, reference)
		options.UnpackedUntil = time.Now()
		for _, line := range differences(want, p.see(t, reference), options) {
			t.Errorf("a container of %s: %s", reference, line)
		}
	}
	pullAgain(t, p, host, references)
}

// differences between two trees but for the mode of the root folder: containers/storage makes it 0555 whatever the image says, in nodes it is
// what containerd makes of the image.
func differences(want, got map[string]tree.Entry, options tree.Options) []string {
	return slices.DeleteFunc(tree.Diff(want, got, options), func(line string) bool { return line == "/: mode is 0755, want 0555" })
}

// skopeo reads the image by another program.
func skopeo(t *testing.T, p podman, reference string) {
	t.Helper()
	name := fmt.Sprintf("containers-storage:[overlay@%s/graph+%s/run:overlay.imagestore=%s]%s", p.root, p.root, p.additional, reference)
	var image struct {
		Layers []string
		Labels map[string]string
	}
	if err := json.Unmarshal([]byte(run(t, "skopeo", "inspect", name)), &image); err != nil {
		t.Fatal(err)
	}
	if len(image.Layers) == 0 || image.Labels["label"] == "" {
		t.Errorf("skopeo inspect %s says %+v", name, image)
	}
}

// pullAgain pulls images over those of the store, as a pod with imagePullPolicy Always makes the node do, and a new one on a base that the
// store has.
func pullAgain(t *testing.T, p podman, host string, references []string) {
	t.Helper()
	before := listing(t, p.additional)
	for _, reference := range references {
		want := p.id(t, reference)
		// It says the id twice when there are two such images, in the store and in its own.
		if got := unique(strings.Fields(p.run(t, "pull", "--quiet", "--tls-verify=false", reference))); !slices.Equal(got, []string{want}) {
			t.Errorf("pulling %s again gives %s, want %s", reference, got, want)
		}
	}
	push(t, host+"/later:1", imageOf(t, "amd64", "later", baseLayer(t), layerOf(t, file("later", "4"))))
	p.run(t, "pull", "--quiet", "--tls-verify=false", host+"/later:1")
	if got := p.see(t, host+"/later:1"); got["/later"].Type != "file" || got["/d/old"].Type != "file" {
		t.Error("a container of an image that was pulled later does not see its files")
	}
	p.run(t, "rmi", "--force", host+"/later:1")
	if after := listing(t, p.additional); !slices.Equal(before, after) {
		t.Errorf("the store has changed from\n%s\nto\n%s", strings.Join(before, "\n"), strings.Join(after, "\n"))
	}
}

func unique(list []string) []string {
	slices.Sort(list)
	return slices.Compact(list)
}

// listing is every path below root with its mode, size and time.
func listing(t *testing.T, root string) []string {
	t.Helper()
	var lines []string
	err := filepath.WalkDir(root, func(path string, entry os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := entry.Info()
		if err == nil && !info.IsDir() {
			lines = append(lines, fmt.Sprint(strings.TrimPrefix(path, root), info.Mode(), info.Size(), info.ModTime()))
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return lines
}
