package publish

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/nodeimg/nodeimg/internal/cache"
)

func keepStore(_ int, history v1.History) bool { return strings.Contains(history.CreatedBy, "store") }

func openCache(t *testing.T) *cache.Cache {
	t.Helper()
	c, err := cache.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestRecompress(t *testing.T) {
	built := builtImage(t)
	dir := writeBuilt(t, built)
	c := openCache(t)
	screen, ctx := newScreen(t.Context())
	img, err := Recompress(ctx, c, dir, nil, keepStore)
	if err != nil {
		t.Fatal(err)
	}
	screen.complete(t)
	if got := strings.Count(screen.String(), "compress layer"); got != 6 { // each is started and done
		t.Errorf("%d lines about compressing, want 6:\n%s", got, screen)
	}
	checkImage(t, img)
	manifest, err := img.Manifest()
	if err != nil {
		t.Fatal(err)
	}
	for i, want := range []types.MediaType{types.OCILayer, types.OCILayer, types.OCILayer} {
		if manifest.Layers[i].MediaType != want {
			t.Errorf("layer %d is %s, want %s", i, manifest.Layers[i].MediaType, want)
		}
	}
	before, err := built.Manifest()
	if err != nil {
		t.Fatal(err)
	}
	if manifest.Layers[0].Size >= before.Layers[0].Size {
		t.Error("the compressed layer is not smaller")
	}
	if manifest.Config.Digest != before.Config.Digest {
		t.Error("the config changed")
	}

	screen, ctx = newScreen(t.Context())
	again, err := Recompress(ctx, c, writeBuilt(t, built), nil, keepStore)
	if err != nil {
		t.Fatal(err)
	}
	if screen.String() != "" {
		t.Errorf("a second run compressed again: %s", screen)
	}
	elsewhere, err := Recompress(t.Context(), openCache(t), dir, nil, keepStore)
	if err != nil {
		t.Fatal(err)
	}
	if digestOf(t, again) != digestOf(t, img) || digestOf(t, elsewhere) != digestOf(t, img) {
		t.Error("the same layers gave another manifest")
	}
}

func TestRecompressAfterTheCacheLostABlob(t *testing.T) {
	dir := writeBuilt(t, builtImage(t))
	c := openCache(t)
	img, err := Recompress(t.Context(), c, dir, nil, keepStore)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.RemoveAll(filepath.Join(c.Root(), "blobs", "sha256")); err != nil {
		t.Fatal(err)
	}
	if c, err = cache.Open(c.Root()); err != nil {
		t.Fatal(err)
	}
	again, err := Recompress(t.Context(), c, dir, nil, keepStore)
	if err != nil {
		t.Fatal(err)
	}
	if digestOf(t, again) != digestOf(t, img) {
		t.Error("the same layers gave another manifest")
	}
	checkImage(t, again)
}

func TestRecompressLeavesCompressedLayers(t *testing.T) {
	source := randomImage(t) // gzip
	img, err := Recompress(t.Context(), openCache(t), writeBuilt(t, source), nil, keepStore)
	if err != nil {
		t.Fatal(err)
	}
	want, err := source.Layers()
	if err != nil {
		t.Fatal(err)
	}
	got, err := img.Layers()
	if err != nil {
		t.Fatal(err)
	}
	for i := range want {
		wanted, _ := hashOf(t, want[i].Compressed)
		if found, _ := hashOf(t, got[i].Compressed); found != wanted {
			t.Errorf("layer %d changed", i)
		}
	}
	checkImage(t, img)
}

func TestRecompressReadsThroughAnIndexWithAttestations(t *testing.T) {
	built := builtImage(t)
	inner := mutate.AppendManifests(empty.Index,
		mutate.IndexAddendum{Add: built, Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: "amd64"}}},
		mutate.IndexAddendum{Add: randomImage(t), Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "unknown", Architecture: "unknown"}}},
	)
	dir := t.TempDir()
	path, err := layout.Write(dir, empty.Index)
	if err != nil {
		t.Fatal(err)
	}
	if err := path.AppendIndex(inner); err != nil {
		t.Fatal(err)
	}
	img, err := Recompress(t.Context(), openCache(t), dir, nil, keepStore)
	if err != nil {
		t.Fatal(err)
	}
	checkImage(t, img)
	if err := path.AppendImage(randomImage(t)); err != nil {
		t.Fatal(err)
	}
	if _, err := Recompress(t.Context(), openCache(t), dir, nil, keepStore); err == nil || !strings.Contains(err.Error(), "found 2") {
		t.Errorf("want an error about two images, got %v", err)
	}
}

func TestRecompressNoticesWrongBytes(t *testing.T) {
	built := builtImage(t)
	dir := writeBuilt(t, built)
	manifest, err := built.Manifest()
	if err != nil {
		t.Fatal(err)
	}
	blob := filepath.Join(dir, "blobs", "sha256", manifest.Layers[0].Digest.Hex)
	content, err := os.ReadFile(blob)
	if err != nil {
		t.Fatal(err)
	}
	content[1000] ^= 1
	if err := os.WriteFile(blob, content, 0o644); err != nil {
		t.Fatal(err)
	}
	c := openCache(t)
	var mismatch *cache.DigestError
	if _, err := Recompress(t.Context(), c, dir, nil, keepStore); !errors.As(err, &mismatch) {
		t.Fatalf("want a digest error, got %v", err)
	}
	wantOnly(t, filepath.Join(c.Root(), "partial"))
}
