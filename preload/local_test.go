package preload

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"

	"github.com/nodeimg/nodeimg/recipes"
)

// writeArchive saves the image as a docker-archive.
func writeArchive(t *testing.T, path, tag string, image v1.Image) {
	t.Helper()
	ref, err := name.NewTag(tag)
	if err != nil {
		t.Fatal(err)
	}
	if err := tarball.WriteToFile(path, ref, image); err != nil {
		t.Fatal(err)
	}
}

// writeLayout writes an OCI layout with the given names; "" means none.
func writeLayout(t *testing.T, dir string, what map[string]any) {
	t.Helper()
	p, err := layout.Write(dir, empty.Index)
	if err != nil {
		t.Fatal(err)
	}
	for ref, one := range what {
		var options []layout.Option
		if ref != "" {
			options = append(options, layout.WithAnnotations(map[string]string{"org.opencontainers.image.ref.name": ref}))
		}
		if index, ok := one.(v1.ImageIndex); ok {
			err = p.AppendIndex(index, options...)
		} else {
			err = p.AppendImage(one.(v1.Image), options...)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

// tarDirectory packs a folder as a tar, as "tar -C dir -cf path ." does.
func tarDirectory(t *testing.T, dir, path string) {
	t.Helper()
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	w := tar.NewWriter(f)
	if err := w.AddFS(os.DirFS(dir)); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
}

func TestLocalSources(t *testing.T) {
	s := newSources(t)
	docker, oci := newImage(t, "amd64", 3, 400), newOCIImage(t, "amd64", 2, 400)
	index := newIndex(t, map[string]v1.Image{"arm64": newOCIImage(t, "arm64", 1, 10), "amd64": oci})
	at := func(name string) string { return filepath.Join(s.Dir, name) }
	writeArchive(t, at("docker.tar"), "example.com/team/app:dev", docker)
	b, err := os.ReadFile(at("docker.tar"))
	if err != nil {
		t.Fatal(err)
	}
	var zipped bytes.Buffer
	z := gzip.NewWriter(&zipped)
	_, _ = z.Write(b)
	_ = z.Close()
	writeFile(t, at("docker.tar.gz"), zipped.Bytes())
	encoder, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	writeFile(t, at("docker.tar.zst"), encoder.EncodeAll(b, nil))
	writeLayout(t, at("layout"), map[string]any{"app:dev": docker, "registry.k8s.io/multi:1": index})
	tarDirectory(t, at("layout"), at("oci.tar"))

	dockerDigest, ociDigest := digest.FromBytes(rawManifest(t, docker)).String(), digest.FromBytes(rawManifest(t, oci)).String()
	indexDigest := digest.FromBytes(rawManifest(t, index)).String()
	both := map[string][2]string{
		"docker.io/library/app:dev": {dockerDigest, dockerDigest},
		"registry.k8s.io/multi:1":   {indexDigest, ociDigest},
	}
	// A docker-archive has no manifest; whichever way it comes, the same one is made for it.
	made := mustResolve(t, s, recipes.ImageSource{Archive: "docker.tar"})[0]
	archived := map[string][2]string{"example.com/team/app:dev": {made.Digest, made.Manifest}}
	for _, test := range []struct {
		src  recipes.ImageSource
		want map[string][2]string
	}{
		{recipes.ImageSource{Archive: "docker.tar"}, archived},
		{recipes.ImageSource{Archive: at("docker.tar")}, archived},
		{recipes.ImageSource{Archive: "docker.tar.gz"}, archived},
		{recipes.ImageSource{Archive: "docker.tar.zst"}, archived},
		{recipes.ImageSource{Layout: "layout"}, both},
		{recipes.ImageSource{Archive: "oci.tar"}, both},
	} {
		t.Run(describe(test.src), func(t *testing.T) {
			again := &Sources{Cache: newCache(t), Dir: s.Dir}
			locked := mustResolve(t, again, test.src)
			mustFetch(t, again, locked)
			got := map[string][2]string{}
			for _, image := range locked {
				got[image.Reference] = [2]string{image.Digest, image.Manifest}
				parts, err := readParts(again.Cache, image)
				if err != nil {
					t.Fatal(err)
				}
				for _, d := range parts.all() {
					checkBlob(t, again.Cache, d.Digest)
				}
			}
			if len(got) != len(test.want) {
				t.Errorf("found %v, want %v", got, test.want)
			}
			for reference, digests := range test.want {
				if got[reference] != digests {
					t.Errorf("%s is %v, want %v", reference, got[reference], digests)
				}
			}
			// The lock alone is enough for a cache that has lost everything.
			lost := &Sources{Cache: newCache(t), Dir: s.Dir}
			mustFetch(t, lost, locked)
		})
	}
}

func TestBadLocalSources(t *testing.T) {
	s := newSources(t)
	at := func(name string) string { return filepath.Join(s.Dir, name) }
	image := newOCIImage(t, "amd64", 1, 400)
	writeLayout(t, at("nameless"), map[string]any{"": image})
	writeLayout(t, at("tag-only"), map[string]any{"latest": image})
	writeLayout(t, at("arm"), map[string]any{"app:1": newOCIImage(t, "arm64", 1, 10)})
	writeLayout(t, at("damaged"), map[string]any{"app:1": image})
	damaged := filepath.Join(at("damaged"), "blobs", "sha256", digest.FromBytes(rawManifest(t, image)).Encoded())
	writeFile(t, damaged, append(rawManifest(t, image), ' '))
	writeFile(t, at("text.tar"), []byte("this is no archive, but it is long enough to be looked at"))
	writeFile(t, at("cut.tar.gz"), []byte{0x1f, 0x8b, 8, 0})
	var cut bytes.Buffer
	z := gzip.NewWriter(&cut)
	_, _ = z.Write(make([]byte, 1000))
	_ = z.Flush()
	writeFile(t, at("short.tar.gz"), cut.Bytes())
	var nothing bytes.Buffer
	_ = tar.NewWriter(&nothing).Close()
	writeFile(t, at("empty.tar"), nothing.Bytes())
	for _, test := range []struct {
		src  recipes.ImageSource
		says string
	}{
		{recipes.ImageSource{Layout: "nameless"}, "no image with a name"},
		{recipes.ImageSource{Layout: "tag-only"}, "no image with a name"},
		{recipes.ImageSource{Layout: "missing"}, "there is no OCI layout"},
		{recipes.ImageSource{Archive: "missing.tar"}, "there is no archive"},
		{recipes.ImageSource{Layout: "arm"}, "linux/arm64"},
		{recipes.ImageSource{Layout: "damaged"}, "damaged"},
		{recipes.ImageSource{Archive: "text.tar"}, "is no image archive"},
		{recipes.ImageSource{Archive: "cut.tar.gz"}, "damaged"},
		{recipes.ImageSource{Archive: "short.tar.gz"}, "damaged"},
		{recipes.ImageSource{Archive: "empty.tar"}, "neither an OCI layout nor a docker-archive"},
		{recipes.ImageSource{}, "needs one of"},
	} {
		_, err := s.Resolve(t.Context(), test.src, platform, recipes.RoleUser)
		var input *recipes.InputError
		if !errors.As(err, &input) || !strings.Contains(err.Error(), test.says) {
			t.Errorf("%s gives %v, want bad input with %q", describe(test.src), err, test.says)
		}
	}
}

func TestDamagedLayerIsNotFetched(t *testing.T) {
	s := newSources(t)
	image := newOCIImage(t, "amd64", 1, 400)
	writeLayout(t, filepath.Join(s.Dir, "layout"), map[string]any{"app:1": image})
	locked := mustResolve(t, s, recipes.ImageSource{Layout: "layout"})
	parts, err := readParts(s.Cache, locked[0])
	if err != nil {
		t.Fatal(err)
	}
	layer := parts.layers[0].Digest
	writeFile(t, filepath.Join(s.Dir, "layout", "blobs", "sha256", layer.Encoded()), make([]byte, parts.layers[0].Size))
	var input *recipes.InputError
	if err := s.Fetch(t.Context(), locked[0]); !errors.As(err, &input) || !strings.Contains(err.Error(), layer.String()) {
		t.Errorf("the error is %v", err)
	}
	if s.Cache.Has(layer) {
		t.Error("the damaged layer is in the cache")
	}
}

// TestNamesFromManifestJSON has what Docker 25 and later save: a layout whose index.json has only a tag, and the names in manifest.json.
func TestNamesFromManifestJSON(t *testing.T) {
	s := newSources(t)
	image := newOCIImage(t, "amd64", 1, 400)
	dir := filepath.Join(s.Dir, "saved")
	writeLayout(t, dir, map[string]any{"dev": image})
	config, err := image.ConfigName()
	if err != nil {
		t.Fatal(err)
	}
	writeFile(t, filepath.Join(dir, "manifest.json"), []byte(`[{"Config":"blobs/sha256/`+config.Hex+`","RepoTags":["app:dev","app:other"],"Layers":[]}]`))
	tarDirectory(t, dir, filepath.Join(s.Dir, "saved.tar"))
	locked := mustResolve(t, s, recipes.ImageSource{Archive: "saved.tar"})
	if len(locked) != 2 || locked[0].Reference != "docker.io/library/app:dev" || locked[1].Reference != "docker.io/library/app:other" {
		t.Errorf("found %+v", locked)
	}
}
