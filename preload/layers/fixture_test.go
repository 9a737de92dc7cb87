package layers_test

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/klauspost/compress/gzip"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/identity"

	"github.com/nodeimg/nodeimg/internal/cache"
	"github.com/nodeimg/nodeimg/internal/cachedimage"
	"github.com/nodeimg/nodeimg/preload"
	"github.com/nodeimg/nodeimg/preload/layers"
	"github.com/nodeimg/nodeimg/recipes"
)

var epoch = time.Date(2024, 5, 6, 7, 8, 9, 0, time.UTC)

// The sizes of small layers, which share one with others, and of big ones, which do not.
const (
	small = 10 << 10
	big   = 4<<20 + 5000
)

// bothLayouts runs a test for each layout.
func bothLayouts(t *testing.T, f func(t *testing.T, layout recipes.Layout)) {
	for _, layout := range []recipes.Layout{recipes.LayoutPacked, recipes.LayoutUnpacked} {
		t.Run(string(layout), func(t *testing.T) { f(t, layout) })
	}
}

func newCache(t testing.TB) *cache.Cache {
	t.Helper()
	c, err := cache.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// bytesOf are size bytes that do not compress and that the seed decides.
func bytesOf(seed string, size int) []byte {
	b := make([]byte, size)
	key := [32]byte([]byte(digest.FromString(seed).Encoded())[:32])
	_, _ = rand.NewChaCha8(key).Read(b)
	return b
}

// layerOf is a layer of entries; a name that ends in a slash is a folder.
func layerOf(t testing.TB, entries ...entry) v1.Layer {
	t.Helper()
	var b bytes.Buffer
	compressor, err := gzip.NewWriterLevel(&b, gzip.BestSpeed)
	if err != nil {
		t.Fatal(err)
	}
	w := tar.NewWriter(compressor)
	for _, e := range entries {
		e.header.Size = int64(len(e.content))
		e.header.ModTime = time.Unix(1700000000, 0)
		if err := w.WriteHeader(&e.header); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(e.content); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(w.Close(), compressor.Close()); err != nil {
		t.Fatal(err)
	}
	layer, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(b.Bytes())), nil })
	if err != nil {
		t.Fatal(err)
	}
	return layer
}

type entry struct {
	header  tar.Header
	content []byte
}

func file(name string, content []byte) entry {
	return entry{tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o644}, content}
}

func folder(name string) entry {
	return entry{tar.Header{Typeflag: tar.TypeDir, Name: name + "/", Mode: 0o755}, nil}
}

// layer holds one file of the size whose name and content the seed decides.
func layer(t testing.TB, seed string, size int) v1.Layer {
	return layerOf(t, folder("data"), file("data/"+seed, bytesOf(seed, size)))
}

// poorLayer is layer with content that compresses to almost nothing.
func poorLayer(t testing.TB, seed string, size int) v1.Layer {
	return layerOf(t, folder("data"), file("data/"+seed, append(make([]byte, size), seed...)))
}

func imageOf(t testing.TB, list ...v1.Layer) v1.Image {
	t.Helper()
	image, err := mutate.AppendLayers(empty.Image, list...)
	if err != nil {
		t.Fatal(err)
	}
	config, err := image.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	config = config.DeepCopy()
	config.OS, config.Architecture = "linux", "amd64"
	if image, err = mutate.ConfigFile(image, config); err != nil {
		t.Fatal(err)
	}
	return image
}

// put puts the image into the cache as a source would.
func put(t testing.TB, c *cache.Cache, reference string, image v1.Image) recipes.LockedImage {
	t.Helper()
	d, err := cachedimage.Put(c, image)
	if err != nil {
		t.Fatal(err)
	}
	mediaType, err := image.MediaType()
	if err != nil {
		t.Fatal(err)
	}
	size, err := image.Size()
	if err != nil {
		t.Fatal(err)
	}
	return recipes.LockedImage{
		Reference: reference, MediaType: string(mediaType), Digest: d.String(), Size: size, Manifest: d.String(),
		Platform: "linux/amd64", Role: recipes.RoleUser,
	}
}

func options(layout recipes.Layout) layers.Options {
	return layers.Options{Layout: layout, Max: 80, Epoch: epoch}
}

func mustMake(t testing.TB, c *cache.Cache, images []recipes.LockedImage, options layers.Options) []layers.Layer {
	t.Helper()
	made, err := layers.Make(t.Context(), c, images, options)
	if err != nil {
		t.Fatal(err)
	}
	return made
}

// digests of the layers that belong to the image, in their order.
func digests(t testing.TB, made []layers.Layer, reference string) []string {
	t.Helper()
	var list []string
	for _, l := range made {
		if reference == "" || slices.Contains(l.References, reference) {
			d, err := l.Digest()
			if err != nil {
				t.Fatal(err)
			}
			list = append(list, d.String())
		}
	}
	return list
}

// read returns the entries of a layer by name, and the digests of its regular files.
func read(t testing.TB, l v1.Layer) (order []string, headers map[string]*tar.Header, sums map[string]digest.Digest) {
	t.Helper()
	r, err := l.Uncompressed()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	headers, sums = map[string]*tar.Header{}, map[string]digest.Digest{}
	for archive := tar.NewReader(r); ; {
		h, err := archive.Next()
		if errors.Is(err, io.EOF) {
			return order, headers, sums
		}
		if err != nil {
			t.Fatal(err)
		}
		if headers[h.Name] != nil {
			t.Errorf("%s is there twice", h.Name)
		}
		order = append(order, h.Name)
		headers[h.Name] = h
		if h.Typeflag == tar.TypeReg {
			if sums[h.Name], err = digest.FromReader(archive); err != nil {
				t.Fatal(err)
			}
		}
	}
}

func name(i int) string { return fmt.Sprintf("registry.example/app-%03d:1", i) }

func mustParts(t testing.TB, c *cache.Cache, image recipes.LockedImage) preload.Parts {
	t.Helper()
	parts, err := preload.ReadParts(c, image)
	if err != nil {
		t.Fatal(err)
	}
	return parts
}

// topChain names the snapshot that the image's containers start from; it is empty for an image without layers.
func topChain(parts preload.Parts) digest.Digest {
	return identity.ChainID(slices.Clone(parts.DiffIDs))
}

// withDiffIDs gives an image n wrong diff ids.
func withDiffIDs(t testing.TB, image v1.Image, n int) v1.Image {
	t.Helper()
	config, err := image.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	config = config.DeepCopy()
	config.RootFS.DiffIDs = nil
	for i := range n {
		wrong, err := v1.NewHash(digest.FromString(fmt.Sprint("wrong", i)).String())
		if err != nil {
			t.Fatal(err)
		}
		config.RootFS.DiffIDs = append(config.RootFS.DiffIDs, wrong)
	}
	if image, err = mutate.ConfigFile(image, config); err != nil {
		t.Fatal(err)
	}
	return image
}

func blobsIn(t testing.TB, c *cache.Cache) []string {
	t.Helper()
	found, err := filepath.Glob(filepath.Join(c.Root(), "blobs", "sha256", "*"))
	if err != nil {
		t.Fatal(err)
	}
	return found
}

// spoil cuts a blob in the cache.
func spoil(t testing.TB, c *cache.Cache, d string) {
	t.Helper()
	if err := os.Truncate(c.Path(digest.Digest(d)), 10); err != nil {
		t.Fatal(err)
	}
}
