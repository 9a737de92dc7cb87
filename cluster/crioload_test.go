package cluster

import (
	"archive/tar"
	"bytes"
	"io"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/tarball"

	"github.com/nodeimg/nodeimg/internal/cache"
	"github.com/nodeimg/nodeimg/preload"
	"github.com/nodeimg/nodeimg/preload/containers"
	"github.com/nodeimg/nodeimg/preload/trees"
	"github.com/nodeimg/nodeimg/recipes"
)

// unpackedImage is an image of layers, read from an archive.
func unpackedImage(t *testing.T, c *cache.Cache, tag string, layers ...v1.Layer) unpacked {
	t.Helper()
	image, err := random.Image(0, 0)
	if err == nil {
		image, err = mutate.ConfigFile(image, &v1.ConfigFile{OS: "linux", Architecture: "amd64", RootFS: v1.RootFS{Type: "layers"}})
	}
	if err == nil {
		image, err = mutate.AppendLayers(image, layers...)
	}
	if err != nil {
		t.Fatal(err)
	}
	reference, err := name.NewTag(tag)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "image.tar")
	if err := tarball.WriteToFile(file, reference, image); err != nil {
		t.Fatal(err)
	}
	sources := &preload.Sources{Cache: c}
	found, err := sources.Resolve(t.Context(), recipes.ImageSource{Archive: file}, "linux/amd64", recipes.RoleUser)
	if err != nil {
		t.Fatal(err)
	}
	if err := sources.Fetch(t.Context(), found[0]); err != nil {
		t.Fatal(err)
	}
	content, err := readContent(c, found[0])
	if err != nil {
		t.Fatal(err)
	}
	list, err := unpack(t.Context(), c, []imageContent{content})
	if err != nil {
		t.Fatal(err)
	}
	return list[0]
}

func randomLayer(t *testing.T) v1.Layer {
	t.Helper()
	layer, err := random.Layer(1000, "application/vnd.docker.image.rootfs.diff.tar.gzip")
	if err != nil {
		t.Fatal(err)
	}
	return layer
}

// shown is what a node shows whose store has the files.
func shown(t *testing.T, preloaded string, files map[string]string) *bytes.Buffer {
	t.Helper()
	all := map[string]string{"overlay-layers/layers.json": preloaded, "overlay-images/images.json": `[{"id": "p", "names": ["example.com/preloaded:1"]}]`}
	for path, content := range files {
		all[path] = content
	}
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for path, content := range all {
		if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: path, Size: int64(len(content))}); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, content); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return &b
}

// TestCRIOLoad follows what a node is sent: trees that it lacks, then a store that leads to all of them, and what says that it is whole.
func TestCRIOLoad(t *testing.T) {
	c, err := cache.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	base := randomLayer(t)
	one, two := unpackedImage(t, c, "example.com/one:1", base, randomLayer(t)), unpackedImage(t, c, "example.com/two:1", base, randomLayer(t))
	load := &crioLoading{cache: c, images: []unpacked{one, two}}
	state, err := readState(shown(t, `[{"id": "`+containers.LayerID(one.snapshots[0].ChainID)+`"}]`, map[string]string{
		"stores/empty/overlay-layers/layers.json": "[]", "stores/empty/overlay-images/images.json": "[]", "stores/empty/overlay-images/images.lock": "",
		"overlay-containers/containers.json": `[{"id": "c", "image": "i"}]`, "overlay-containers/volatile-containers.json": `[{"id": "v", "image": "j"}]`,
	}))
	if err != nil {
		t.Fatal(err)
	}
	if state.store != "empty" || !state.inUse["i"] || !state.inUse["j"] || len(state.names) != 1 {
		t.Errorf("read %+v", state)
	}
	lacking, err := load.lacking(state)
	if err != nil {
		t.Fatal(err)
	}
	if want := []trees.Snapshot{one.snapshots[1], two.snapshots[1]}; !slices.Equal(lacking, want) {
		t.Fatalf("lacking %v, want %v", lacking, want)
	}
	files, err := load.files(state)
	if err != nil {
		t.Fatal(err)
	}
	var sent bytes.Buffer
	if err := load.write(t.Context(), &sent, files, lacking); err != nil {
		t.Fatal(err)
	}
	got := map[string]string{}
	var last string
	for header, content := range entries(t, &sent) {
		last, got[header.Name] = header.Name, content+header.Linkname
	}
	if last != "whole" {
		t.Errorf("the last entry is %s: a stream that ends before it would pass for whole", last)
	}
	if want := one.snapshots[1].ChainID.Encoded(); !strings.Contains(got["store/trees"], want+"\n") || strings.Contains(got["store/trees"], one.snapshots[0].ChainID.Encoded()) {
		t.Errorf("trees that the node keeps: %q", got["store/trees"])
	}
	for _, name := range []string{"example.com/preloaded:1", "example.com/one:1", "example.com/two:1"} {
		if !strings.Contains(got["store/pinned.conf"], name) {
			t.Errorf("%s is not pinned: %s", name, got["store/pinned.conf"])
		}
	}
	for i, folder := range []string{recipes.SnapshotsPath, loadedTrees} {
		chain := one.snapshots[i].ChainID
		if link := got["store/overlay/"+containers.LayerID(chain)+"/diff"]; link != folder+"/"+chain.Encoded()+"/fs" {
			t.Errorf("layer %d leads to %s", i, link)
		}
		if _, there := got["trees/"+chain.Encoded()+"/fs/"]; there != (i == 1) {
			t.Errorf("tree %d was sent: %v", i, there)
		}
	}

	// The node has it all now.
	have := map[string]string{}
	for path, content := range got {
		if file, ok := strings.CutPrefix(path, "store/"); ok {
			have["stores/"+storeName(files)+"/"+file] = content
		}
	}
	if state, err = readState(shown(t, "[]", have)); err != nil {
		t.Fatal(err)
	}
	if layers, err := state.layers(); err != nil || len(layers) != 3 {
		t.Errorf("layers %v, %v", layers, err)
	}
	if _, err := readState(strings.NewReader("")); err == nil {
		t.Error("a node that shows nothing has a state")
	}
}
