package cachedimage_test

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/validate"
	"github.com/opencontainers/go-digest"

	"github.com/nodeimg/nodeimg/internal/cache"
	"github.com/nodeimg/nodeimg/internal/cachedimage"
)

// fill puts a random image into a new cache.
func fill(t *testing.T) (*cache.Cache, v1.Image, digest.Digest) {
	t.Helper()
	c, err := cache.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	image, err := random.Image(1000, 3)
	if err != nil {
		t.Fatal(err)
	}
	manifest, err := cachedimage.Put(c, image)
	if err != nil {
		t.Fatal(err)
	}
	return c, image, manifest
}

func TestOpen(t *testing.T) {
	c, want, d := fill(t)
	got, err := cachedimage.Open(c, d)
	if err != nil {
		t.Fatal(err)
	}
	if err := validate.Image(got); err != nil {
		t.Error(err)
	}
	wantDigest, _ := want.Digest()
	if gotDigest, err := got.Digest(); err != nil || gotDigest != wantDigest {
		t.Errorf("digest %v, %v; want %v", gotDigest, err, wantDigest)
	}
	if _, err := cachedimage.Open(c, digest.FromString("missing")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("opening what is not there: %v", err)
	}
}

func TestComplete(t *testing.T) {
	c, image, d := fill(t)
	if !cachedimage.Complete(c, d) {
		t.Fatal("a whole image is not complete")
	}
	manifest, err := image.Manifest()
	if err != nil {
		t.Fatal(err)
	}
	layer := c.Path(digest.Digest(manifest.Layers[1].Digest.String()))
	if err := os.Truncate(layer, 10); err != nil {
		t.Fatal(err)
	}
	if cachedimage.Complete(c, d) {
		t.Error("an image with a cut layer is complete")
	}
	if err := os.Remove(layer); err != nil {
		t.Fatal(err)
	}
	if cachedimage.Complete(c, d) {
		t.Error("an image without one of its layers is complete")
	}
	if cachedimage.Complete(c, digest.FromString("missing")) {
		t.Error("an image without a manifest is complete")
	}
}

func TestGzipLayer(t *testing.T) {
	c, image, _ := fill(t)
	layers, err := image.Layers()
	if err != nil {
		t.Fatal(err)
	}
	hash, _ := layers[0].Digest()
	diffID, _ := layers[0].DiffID()
	size, _ := layers[0].Size()
	layer, err := cachedimage.GzipLayer(c, digest.Digest(hash.String()), digest.Digest(diffID.String()), size)
	if err != nil {
		t.Fatal(err)
	}
	if err := validate.Layer(layer); err != nil {
		t.Error(err)
	}
	// The diff ID is known: nothing is unpacked for it, so it is there even when the blob is not.
	if err := os.Remove(c.Path(digest.Digest(hash.String()))); err != nil {
		t.Fatal(err)
	}
	if got, err := layer.DiffID(); err != nil || got != diffID {
		t.Errorf("diff ID %v, %v; want %v", got, err, diffID)
	}
	if r, err := layer.Compressed(); err == nil {
		_, _ = io.Copy(io.Discard, r)
		t.Error("a missing blob can be read")
	}
}
