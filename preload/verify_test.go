package preload

import (
	"archive/tar"
	"bytes"
	"io"
	"maps"
	"path"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/validate"

	"github.com/nodeimg/nodeimg/internal/cache"
	"github.com/nodeimg/nodeimg/recipes"
)

// newLayer makes a layer of the files, in order of name.
func newLayer(t *testing.T, files map[string][]byte) v1.Layer {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, name := range slices.Sorted(maps.Keys(files)) {
		header := &tar.Header{Name: name, Mode: 0o644, Size: int64(len(files[name])), Typeflag: tar.TypeReg}
		if strings.HasSuffix(name, "/") {
			header.Typeflag = tar.TypeDir
		}
		if err := w.WriteHeader(header); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(files[name]); err != nil {
			t.Fatal(err)
		}
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

func TestVerifyImage(t *testing.T) {
	s := newSources(t)
	locked := fetched(t, s)
	const root = "usr/lib/nodeimg/store/"
	good := map[string][]byte{"etc/passwd": []byte("root"), "usr/lib/nodeimg/store/": nil, root + "blobs/": nil}
	for name, b := range storeFiles(t, s.Cache, locked) {
		good[root+name] = b
	}
	parts, err := readParts(s.Cache, locked[2])
	if err != nil {
		t.Fatal(err)
	}
	layer, manifest, index := blobPath(parts.layers[0].Digest), blobPath(parts.manifest.Digest), blobPath(parts.target.Digest)
	coredns, pause := locked[2].Reference, locked[0].Reference
	if !strings.Contains(coredns, "coredns") || !strings.Contains(pause, "pause") {
		t.Fatalf("unexpected order: %s, %s", coredns, pause)
	}
	wrong := bytes.Clone(good[layer])
	wrong[len(wrong)/2] ^= 1
	half, err := Index(locked[:2])
	if err != nil {
		t.Fatal(err)
	}
	split := map[string][]byte{layer: good[layer]}
	rest := maps.Clone(good)
	delete(rest, layer)
	for _, test := range []struct {
		name   string
		layers []map[string][]byte
		// says must be in the error; none means that the store is right.
		says []string
	}{
		{"good", []map[string][]byte{good}, nil},
		{"good in two layers", []map[string][]byte{rest, split}, nil},
		{"good after a whiteout and a new copy", []map[string][]byte{good, {path.Dir(layer) + "/.wh." + path.Base(layer): nil}, split}, nil},
		{"good with opaque below", []map[string][]byte{{root + "junk": nil}, mergeFiles(good, root+".wh..wh..opq")}, nil},
		{"good over a corrupt lower", []map[string][]byte{mergeFiles(good, layer), {layer: good[layer]}}, nil},
		{"layer missing", []map[string][]byte{rest}, []string{coredns, pause, parts.layers[0].Digest.String() + " (", "missing"}},
		{"layer whited out", []map[string][]byte{good, {path.Dir(layer) + "/.wh." + path.Base(layer): nil}}, []string{coredns, "missing"}},
		{"store whited out", []map[string][]byte{good, {"usr/lib/.wh.nodeimg": nil}}, []string{coredns, pause, "index.json is missing", "oci-layout is missing"}},
		{"store opaque", []map[string][]byte{good, {"usr/lib/nodeimg/.wh..wh..opq": nil}}, []string{coredns, "index.json is missing"}},
		{"store replaced by a file", []map[string][]byte{good, {"usr/lib/nodeimg": []byte("x")}}, []string{coredns, "index.json is missing"}},
		{"bit flipped", []map[string][]byte{good, {layer: wrong}}, []string{coredns, pause, "corrupt"}},
		{"cut short", []map[string][]byte{good, {layer: wrong[:10]}}, []string{coredns, "10 bytes"}},
		{"manifest missing", []map[string][]byte{good, {path.Dir(manifest) + "/.wh." + path.Base(manifest): nil}}, []string{coredns, pause, parts.manifest.Digest.String()}},
		{"index corrupt", []map[string][]byte{good, {index: []byte("{}")}}, []string{coredns, "corrupt"}},
		{"reference missing", []map[string][]byte{good, {root + "index.json": half}}, []string{coredns, "does not name it"}},
		{"something else", []map[string][]byte{good, {root + "blobs/sha256/" + strings.Repeat("0", 64): nil}}, []string{"belongs to no image", strings.Repeat("0", 64)}},
		{"no oci-layout", []map[string][]byte{good, {root + ".wh.oci-layout": nil}}, []string{"oci-layout"}},
		{"nothing", nil, []string{coredns, pause}},
	} {
		t.Run(test.name, func(t *testing.T) {
			image := v1.Image(empty.Image)
			for _, files := range test.layers {
				var err error
				if image, err = mutate.AppendLayers(image, newLayer(t, files)); err != nil {
					t.Fatal(err)
				}
			}
			// The layers are read, read and remembered, remembered.
			for _, known := range []*cache.Cache{nil, s.Cache, s.Cache} {
				err := VerifyImage(t.Context(), known, image, locked)
				if (err == nil) != (test.says == nil) {
					t.Fatalf("the error is %v", err)
				}
				for _, want := range test.says {
					if !strings.Contains(err.Error(), want) {
						t.Errorf("%q is not in: %v", want, err)
					}
				}
			}
		})
	}
}

// mergeFiles adds a file with the content "other" to a copy of files.
func mergeFiles(files map[string][]byte, name string) map[string][]byte {
	merged := maps.Clone(files)
	merged[name] = []byte("other")
	return merged
}

// TestStoreIsALayout reads the store with another implementation of the image layout.
func TestStoreIsALayout(t *testing.T) {
	s := newSources(t)
	locked := fetched(t, s)
	dir := t.TempDir()
	writeStore(t, dir, s.Cache, locked)
	index, err := layout.ImageIndexFromPath(dir)
	if err != nil {
		t.Fatal(err)
	}
	manifest, err := index.IndexManifest()
	if err != nil {
		t.Fatal(err)
	}
	if len(manifest.Manifests) != len(locked) {
		t.Fatalf("%d images", len(manifest.Manifests))
	}
	for i, d := range manifest.Manifests {
		reference := d.Annotations["org.opencontainers.image.ref.name"]
		if i > 0 && reference <= manifest.Manifests[i-1].Annotations["org.opencontainers.image.ref.name"] {
			t.Errorf("%s is not in order", reference)
		}
		if d.MediaType.IsIndex() {
			// An index names other platforms too, which are not in the store.
			continue
		}
		image, err := index.Image(d.Digest)
		if err != nil {
			t.Fatal(err)
		}
		if err := validate.Image(image); err != nil {
			t.Errorf("%s: %v", reference, err)
		}
	}
	again, err := Index([]recipes.LockedImage{locked[2], locked[0], locked[1]})
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(again, storeFiles(t, s.Cache, locked)["index.json"]) {
		t.Error("the order of the lock shows in the index")
	}
}
