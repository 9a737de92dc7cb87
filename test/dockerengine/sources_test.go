package dockerengine

import (
	"archive/tar"
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/opencontainers/go-digest"

	"github.com/nodeimg/nodeimg/builder/publish"
	"github.com/nodeimg/nodeimg/internal/cache"
	"github.com/nodeimg/nodeimg/internal/dockerengine"
	"github.com/nodeimg/nodeimg/preload"
	"github.com/nodeimg/nodeimg/recipes"
)

const host = "linux/amd64"

// randomImage has two layers of random bytes.
func randomImage(t *testing.T, architecture string) v1.Image {
	t.Helper()
	img := mutate.ConfigMediaType(mutate.MediaType(empty.Image, types.OCIManifestSchema1), types.OCIConfigJSON)
	img, err := mutate.ConfigFile(img, &v1.ConfigFile{Architecture: architecture, OS: "linux", RootFS: v1.RootFS{Type: "layers"}})
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		layer, err := random.Layer(10_000, types.OCILayer)
		if err != nil {
			t.Fatal(err)
		}
		if img, err = mutate.AppendLayers(img, layer); err != nil {
			t.Fatal(err)
		}
	}
	return img
}

// loadArchive gives the Engine an OCI archive in which name stands for what, without the blobs that are missing.
func loadArchive(t *testing.T, e *dockerengine.Engine, name string, what v1.ImageIndex, missing ...v1.Image) {
	t.Helper()
	dir := t.TempDir()
	path, err := layout.Write(dir, empty.Index)
	if err != nil {
		t.Fatal(err)
	}
	if err := path.AppendIndex(what, layout.WithAnnotations(map[string]string{"io.containerd.image.name": name})); err != nil {
		t.Fatal(err)
	}
	for _, img := range missing {
		manifest, err := img.Manifest()
		if err != nil {
			t.Fatal(err)
		}
		gone := []v1.Hash{mustHash(t, img.Digest), manifest.Config.Digest}
		for _, layer := range manifest.Layers {
			gone = append(gone, layer.Digest)
		}
		for _, hash := range gone {
			if err := os.Remove(filepath.Join(dir, "blobs", "sha256", hash.Hex)); err != nil {
				t.Fatal(err)
			}
		}
	}
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	if err := w.AddFS(os.DirFS(dir)); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if err := e.Load(t.Context(), &b, func(line string) { t.Log(line) }); err != nil {
		t.Fatal(err)
	}
}

func mustHash(t *testing.T, hash func() (v1.Hash, error)) v1.Hash {
	t.Helper()
	h, err := hash()
	if err != nil {
		t.Fatal(err)
	}
	return h
}

// preloaded resolves and fetches the image and checks every byte of it: manifest and config are those of img, unless the Engine does not
// keep manifests, and the layers hold what img's layers do.
func preloaded(t *testing.T, e *dockerengine.Engine, source recipes.ImageSource, img v1.Image, dir string) recipes.LockedImage {
	t.Helper()
	c, err := cache.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	sources := &preload.Sources{Cache: c, Engine: e, Dir: dir}
	locked, err := sources.Resolve(t.Context(), source, host, recipes.RoleUser)
	if err != nil {
		t.Fatal(err)
	}
	if len(locked) != 1 {
		t.Fatalf("%d images: %+v", len(locked), locked)
	}
	if err := sources.Fetch(t.Context(), locked[0]); err != nil {
		t.Fatal(err)
	}
	parts, err := preload.ReadParts(c, locked[0])
	if err != nil {
		t.Fatal(err)
	}
	if want := mustHash(t, img.ConfigName).String(); parts.Config.Digest.String() != want {
		t.Errorf("%s: the config is %s, want %s", source, parts.Config.Digest, want)
	}
	layers, err := img.Layers()
	if err != nil {
		t.Fatal(err)
	}
	if len(parts.Layers) != len(layers) {
		t.Fatalf("%s: %d layers, want %d", source, len(parts.Layers), len(layers))
	}
	for i, layer := range layers {
		b, err := os.ReadFile(c.Path(parts.Layers[i].Digest))
		if err != nil {
			t.Fatal(err)
		}
		got := digest.FromBytes(b).String()
		if got != mustHash(t, layer.Digest).String() && got != mustHash(t, layer.DiffID).String() {
			t.Errorf("%s: layer %d is %s, which is not the image's", source, i+1, got)
		}
	}
	return locked[0]
}

// TestImageStores preloads from an Engine with each of its two image stores, and from what it saves.
func TestImageStores(t *testing.T) {
	for store, flags := range map[string][]string{"classic": nil, "containerd": {"--feature", "containerd-snapshotter=true"}} {
		t.Run(store, func(t *testing.T) {
			e := openEngine(t, flags...)
			amd64, arm64 := randomImage(t, "amd64"), randomImage(t, "arm64")
			names := []string{"nodeimg-test/app:v1", "registry.example.com/nodeimg-test/app:v2"}
			if _, err := publish.Load(t.Context(), e, amd64, names); err != nil {
				t.Fatal(err)
			}
			dir := t.TempDir()
			for name, full := range map[string]string{names[0]: "docker.io/" + names[0], names[1]: names[1]} {
				image := preloaded(t, e, recipes.ImageSource{Docker: name}, amd64, dir)
				if image.Reference != full {
					t.Errorf("%s became %s", name, image.Reference)
				}
				// What a user saves is the same as what is taken from the Engine.
				save(t, e, name, filepath.Join(dir, "saved.tar"))
				if saved := preloaded(t, e, recipes.ImageSource{Archive: "saved.tar"}, amd64, dir); saved.Reference != full || saved.Digest != image.Digest {
					t.Errorf("%s is %s in the Engine, but %s in what it saves", image.Reference, image.Digest, saved.Digest)
				}
			}
			// By its id, an image is saved without a name.
			id, err := e.ImageID(t.Context(), names[0])
			if err != nil {
				t.Fatal(err)
			}
			save(t, e, id.String(), filepath.Join(dir, "id.tar"))
			if image := preloaded(t, e, recipes.ImageSource{Archive: "id.tar", Name: "mine:1"}, amd64, dir); image.Reference != "docker.io/library/mine:1" {
				t.Errorf("the image without a name became %s", image.Reference)
			}
			sources := &preload.Sources{Engine: e}
			if sources.Cache, err = cache.Open(t.TempDir()); err != nil {
				t.Fatal(err)
			}
			refused := func(name, says string) {
				t.Helper()
				_, err := sources.Resolve(t.Context(), recipes.ImageSource{Docker: name}, host, recipes.RoleUser)
				if !errors.As(err, new(*recipes.InputError)) || !strings.Contains(err.Error(), says) {
					t.Errorf("%s gives %v, want bad input with %q", name, err, says)
				}
			}
			refused("nodeimg-test/app:v9", "no image")
			refused("nodeimg-test/app@"+digest.FromString("other").String(), "no image")
			if store == "classic" {
				return
			}

			// An index of which only one platform was pulled, with an attestation (kind #3795, #3996).
			index := indexOf(t, amd64, arm64)
			loadArchive(t, e, "docker.io/nodeimg-test/multi:v1", index, arm64)
			target, manifest := mustHash(t, index.Digest).String(), mustHash(t, amd64.Digest).String()
			for name, full := range map[string]string{
				"nodeimg-test/multi:v1":                 "docker.io/nodeimg-test/multi:v1",
				"nodeimg-test/multi@" + target:          "docker.io/nodeimg-test/multi@" + target,
				"nodeimg-test/multi:v1@" + target:       "docker.io/nodeimg-test/multi:v1",
				"docker.io/nodeimg-test/multi:v1":       "docker.io/nodeimg-test/multi:v1",
				"index.docker.io/nodeimg-test/multi:v1": "docker.io/nodeimg-test/multi:v1",
			} {
				image := preloaded(t, e, recipes.ImageSource{Docker: name}, amd64, dir)
				if image.Reference != full || image.Digest != target || image.Manifest != manifest {
					t.Errorf("%s became %+v, want index %s with manifest %s", name, image, target, manifest)
				}
			}
			save(t, e, "nodeimg-test/multi:v1", filepath.Join(dir, "multi.tar"))
			if image := preloaded(t, e, recipes.ImageSource{Archive: "multi.tar"}, amd64, dir); image.Digest != target {
				t.Errorf("saved, the index became %s", image.Digest)
			}
			loadArchive(t, e, "docker.io/nodeimg-test/arm:v1", indexOf(t, arm64), []v1.Image{}...)
			refused("nodeimg-test/arm:v1", "only for linux/arm64")
		})
	}
}

// indexOf has the images and, as BuildKit writes it, an attestation.
func indexOf(t *testing.T, images ...v1.Image) v1.ImageIndex {
	t.Helper()
	index := mutate.IndexMediaType(empty.Index, types.OCIImageIndex)
	for _, img := range images {
		config, err := img.ConfigFile()
		if err != nil {
			t.Fatal(err)
		}
		index = mutate.AppendManifests(index, mutate.IndexAddendum{Add: img, Descriptor: v1.Descriptor{Platform: config.Platform()}})
	}
	return mutate.AppendManifests(index, mutate.IndexAddendum{Add: randomImage(t, "unknown"), Descriptor: v1.Descriptor{
		Platform: &v1.Platform{OS: "unknown", Architecture: "unknown"}, Annotations: map[string]string{"vnd.docker.reference.type": "attestation-manifest"},
	}})
}

func save(t *testing.T, e *dockerengine.Engine, name, file string) {
	t.Helper()
	saved, err := e.Save(t.Context(), name)
	if err != nil {
		t.Fatal(err)
	}
	defer saved.Close()
	f, err := os.Create(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := io.Copy(f, saved); err != nil {
		t.Fatal(err)
	}
}
