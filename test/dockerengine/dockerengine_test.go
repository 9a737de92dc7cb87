// Package dockerengine tests, on a real Docker Engine, what the product does with one: loading what was built, saving and looking up.
package dockerengine

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/nodeimg/nodeimg/builder/publish"
	"github.com/nodeimg/nodeimg/internal/cache"
	"github.com/nodeimg/nodeimg/internal/dockerengine"
	"github.com/nodeimg/nodeimg/preload"
	"github.com/nodeimg/nodeimg/recipes"
	"github.com/nodeimg/nodeimg/test/internal/engine"
)

// openEngine connects to an Engine that the test starts with dockerd's flags, as the product would.
func openEngine(t *testing.T, flags ...string) *dockerengine.Engine {
	t.Helper()
	running, err := engine.Start(t.Context(), engine.Options{Flags: flags})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := running.Stop(); err != nil {
			t.Error(err)
		}
	})
	t.Setenv("DOCKER_HOST", running.Host())
	e, err := dockerengine.Open(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = e.Close() })
	return e
}

// compressedImage is like what a build publishes: one layer compressed by zstd and one that is not compressed.
func compressedImage(t *testing.T, c *cache.Cache) v1.Image {
	t.Helper()
	base := mutate.ConfigMediaType(mutate.MediaType(empty.Image, types.OCIManifestSchema1), types.OCIConfigJSON)
	img, err := mutate.ConfigFile(base, &v1.ConfigFile{Architecture: "amd64", OS: "linux", RootFS: v1.RootFS{Type: "layers"}})
	if err != nil {
		t.Fatal(err)
	}
	for name, size := range map[string]int{"etc/a": 100_000, "etc/b": 1000} {
		var b bytes.Buffer
		w := tar.NewWriter(&b)
		if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o644, Size: int64(size)}); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(bytes.Repeat([]byte("x"), size)); err != nil {
			t.Fatal(err)
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		if img, err = mutate.AppendLayers(img, static.NewLayer(b.Bytes(), types.OCIUncompressedLayer)); err != nil {
			t.Fatal(err)
		}
	}
	dir := t.TempDir()
	path, err := layout.Write(dir, empty.Index)
	if err != nil {
		t.Fatal(err)
	}
	if err := path.AppendImage(img); err != nil {
		t.Fatal(err)
	}
	compressed, err := publish.Recompress(t.Context(), c, dir, nil, func(layer int, _ v1.History) bool { return layer == 1 })
	if err != nil {
		t.Fatal(err)
	}
	return compressed
}

func TestEngine(t *testing.T) {
	e := openEngine(t)
	c, err := cache.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	img := compressedImage(t, c)
	config, err := img.ConfigName()
	if err != nil {
		t.Fatal(err)
	}

	t.Run("version", func(t *testing.T) {
		if version, err := e.Version(t.Context()); err != nil || version == "" {
			t.Errorf("version %q, %v", version, err)
		}
	})
	t.Run("load", func(t *testing.T) {
		names := []string{"nodeimg-test/node:v1", "registry.example.com/nodeimg-test/node:v2"}
		id, err := publish.Load(t.Context(), e, img, names)
		if err != nil {
			t.Fatal(err)
		}
		if id.String() != config.String() {
			t.Errorf("the Engine knows the image as %s, want its config %s", id, config)
		}
		found, err := e.Inspect(t.Context(), names[1])
		if err != nil {
			t.Fatal(err)
		}
		slices.Sort(found.Tags)
		if found.ID != id || !slices.Equal(found.Tags, names) || found.OS != "linux" || found.Architecture != "amd64" {
			t.Errorf("image %+v", found)
		}
	})
	t.Run("load a written archive", func(t *testing.T) {
		file := filepath.Join(t.TempDir(), "node.tar")
		if err := publish.WriteDockerArchive(t.Context(), file, img, []string{"nodeimg-test/archive:v1"}); err != nil {
			t.Fatal(err)
		}
		f, err := os.Open(file)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		var said []string
		if err := e.Load(t.Context(), f, func(line string) { said = append(said, line) }); err != nil {
			t.Fatal(err)
		}
		if text := strings.Join(said, "\n"); !strings.Contains(text, "nodeimg-test/archive:v1") {
			t.Errorf("the Engine said %q", text)
		}
		if id, err := e.ImageID(t.Context(), "nodeimg-test/archive:v1"); err != nil || id.String() != config.String() {
			t.Errorf("id %s, %v", id, err)
		}
	})
	t.Run("load what is no image", func(t *testing.T) {
		err := e.Load(t.Context(), strings.NewReader("this is no archive"), nil)
		if err == nil || !strings.HasPrefix(err.Error(), "loading the image into the Docker Engine: ") {
			t.Errorf("got %v", err)
		}
	})
	t.Run("load until it is stopped", func(t *testing.T) {
		stopped := errors.New("stopped by the user")
		ctx, cancel := context.WithCancelCause(t.Context())
		defer cancel(nil)
		r, w := io.Pipe()
		go func() {
			_, _ = w.Write(make([]byte, 512))
			cancel(stopped)
		}()
		if err := e.Load(ctx, r, nil); !errors.Is(err, stopped) {
			t.Errorf("want %v, got %v", stopped, err)
		}
	})
	t.Run("save", func(t *testing.T) {
		saved, err := e.Save(t.Context(), "nodeimg-test/node:v1")
		if err != nil {
			t.Fatal(err)
		}
		defer saved.Close()
		var names []string
		for r := tar.NewReader(saved); ; {
			header, err := r.Next()
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				t.Fatal(err)
			}
			names = append(names, header.Name)
		}
		if !slices.Contains(names, "manifest.json") {
			t.Errorf("the Engine saved %q", names)
		}
	})
	t.Run("preload from the Engine", func(t *testing.T) {
		sources := &preload.Sources{Cache: c, Engine: e}
		images, err := sources.Resolve(t.Context(), recipes.ImageSource{Docker: "nodeimg-test/node:v1"}, "linux/amd64", recipes.RoleUser)
		if err != nil {
			t.Fatal(err)
		}
		if len(images) != 1 || images[0].Reference != "docker.io/nodeimg-test/node:v1" {
			t.Errorf("images %+v", images)
		}
	})
	t.Run("what it does not have", func(t *testing.T) {
		var missing *dockerengine.NotFoundError
		if _, err := e.Save(t.Context(), "nodeimg-test/missing:v1"); !errors.As(err, &missing) {
			t.Errorf("saving: %v", err)
		}
		if _, err := e.ImageID(t.Context(), "nodeimg-test/missing:v1"); !errors.As(err, &missing) {
			t.Errorf("looking up: %v", err)
		}
	})
}
