package publish

import (
	"archive/tar"
	"compress/gzip"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/compression"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/nodeimg/nodeimg/internal/cache"
	"github.com/nodeimg/nodeimg/recipes"
)

func TestParseOutput(t *testing.T) {
	for _, test := range []struct {
		in      string
		want    Output
		failure string
	}{
		{in: "type=oci", want: Output{Type: OutputOCI}},
		{in: "type=oci,dest=out/node", want: Output{Type: OutputOCI, Dest: "out/node"}},
		{in: "out/node", want: Output{Type: OutputOCI, Dest: "out/node"}},
		{in: `type=oci-archive,"dest=a,b.tar"`, want: Output{Type: OutputOCIArchive, Dest: "a,b.tar"}},
		{in: "type=docker", want: Output{Type: OutputDocker}},
		{in: "TYPE=docker,dest=x.tar", want: Output{Type: OutputDocker, Dest: "x.tar"}},
		{in: "", failure: "expected comma-separated"},
		{in: `type="oci`, failure: "expected comma-separated"},
		{in: "dest=x", failure: `"type" is missing`},
		{in: "type=tar,dest=x", failure: `unknown type "tar"; expected one of oci, oci-archive, docker`},
		{in: "type=oci,out=x", failure: `unknown key "out"; expected type or dest`},
		{in: "type=oci,type=docker", failure: `"type" is given twice`},
		{in: "type=oci,dest=", failure: `"dest" is empty`},
		{in: "type=oci,push", failure: `"push" is not key=value`},
		{in: "type=oci-archive", failure: "needs dest=FILE"},
	} {
		t.Run(test.in, func(t *testing.T) {
			got, err := ParseOutput(test.in)
			if test.failure != "" {
				wantInputError(t, err, test.failure)
				return
			}
			if err != nil || got != test.want {
				t.Fatalf("got %+v, %v; want %+v", got, err, test.want)
			}
		})
	}
}

func TestWriteArchive(t *testing.T) {
	img := builtImage(t)
	parent := t.TempDir()
	var sums [2]string
	for i := range sums {
		file := filepath.Join(parent, "node.tar")
		screen, ctx := newScreen(t.Context())
		if err := WriteArchive(ctx, file, img, []string{"node:v1"}); err != nil {
			t.Fatal(err)
		}
		screen.complete(t)
		content, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		sum := sha256.Sum256(content)
		sums[i] = hex.EncodeToString(sum[:])
	}
	if sums[0] != sums[1] {
		t.Error("two archives of one image differ")
	}
	wantOnly(t, parent, "node.tar")
	dir := t.TempDir()
	if out, err := exec.CommandContext(t.Context(), "tar", "-xf", filepath.Join(parent, "node.tar"), "-C", dir).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	read, err := onlyImage(dir)
	if err != nil {
		t.Fatal(err)
	}
	if digestOf(t, read) != digestOf(t, img) {
		t.Error("the archive holds another image")
	}
	checkImage(t, read)
}

func TestWriteDockerArchive(t *testing.T) {
	built := builtImage(t)
	c, err := cache.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	compressed, err := Recompress(t.Context(), c, writeBuilt(t, built), nil, func(i int, _ v1.History) bool { return i == 1 })
	if err != nil {
		t.Fatal(err)
	}
	for name, img := range map[string]v1.Image{"uncompressed": built, "recompressed": compressed, "gzip": randomImage(t), "zstd": zstdImage(t)} {
		t.Run(name, func(t *testing.T) {
			file := filepath.Join(t.TempDir(), "node.tar")
			screen, ctx := newScreen(t.Context())
			if err := WriteDockerArchive(ctx, file, img, []string{"node:v1", "registry.example.com/node:v1"}); err != nil {
				t.Fatal(err)
			}
			screen.complete(t)
			manifest, err := tarball.LoadManifest(func() (io.ReadCloser, error) { return os.Open(file) })
			if err != nil {
				t.Fatal(err)
			}
			if want := []string{"docker.io/library/node:v1", "registry.example.com/node:v1"}; !slices.Equal(manifest[0].RepoTags, want) {
				t.Errorf("tags %q, want %q", manifest[0].RepoTags, want)
			}
			read, err := tarball.ImageFromPath(file, nil)
			if err != nil {
				t.Fatal(err)
			}
			got, err := read.ConfigName()
			if err != nil {
				t.Fatal(err)
			}
			want, err := img.ConfigName()
			if err != nil {
				t.Fatal(err)
			}
			if got != want {
				t.Errorf("image id %s, want %s", got, want)
			}
			config, err := img.ConfigFile()
			if err != nil {
				t.Fatal(err)
			}
			for i, entry := range manifest[0].Layers {
				hash, _ := hashOf(t, func() (io.ReadCloser, error) { return plainEntryOf(file, entry) })
				if hash != config.RootFS.DiffIDs[i] {
					t.Errorf("layer %d is neither its tar nor that compressed by gzip", i)
				}
			}
		})
	}
}

func zstdImage(t *testing.T) v1.Image {
	t.Helper()
	layer, err := tarball.LayerFromOpener(tarLayer(t, "etc/zstd", 50_000).Uncompressed,
		tarball.WithCompression(compression.ZStd), tarball.WithMediaType(types.OCILayerZStd))
	if err != nil {
		t.Fatal(err)
	}
	img, err := mutate.AppendLayers(builtImage(t), layer)
	if err != nil {
		t.Fatal(err)
	}
	return img
}

// plainEntryOf is entryOf without gzip's compression.
func plainEntryOf(file, name string) (io.ReadCloser, error) {
	r, err := entryOf(file, name)
	if err != nil || !strings.HasSuffix(name, ".gz") {
		return r, err
	}
	plain, err := gzip.NewReader(r)
	if err != nil {
		return nil, errors.Join(err, r.Close())
	}
	return struct {
		io.Reader
		io.Closer
	}{plain, r}, nil
}

func entryOf(file, name string) (io.ReadCloser, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	r := tar.NewReader(f)
	for {
		header, err := r.Next()
		if err != nil {
			return nil, errors.Join(err, f.Close())
		}
		if header.Name == name {
			return struct {
				io.Reader
				io.Closer
			}{r, f}, nil
		}
	}
}

func TestMetadata(t *testing.T) {
	img := builtImage(t)
	m, err := NewMetadata(img, []string{"a:1", "b:1"}, &recipes.Lock{Platform: "linux/amd64"})
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if err := WriteMetadata(filepath.Join(dir, "m.json"), m); err != nil {
		t.Fatal(err)
	}
	wantOnly(t, dir, "m.json")
	content, err := os.ReadFile(filepath.Join(dir, "m.json"))
	if err != nil {
		t.Fatal(err)
	}
	var got map[string]any
	if err := json.Unmarshal(content, &got); err != nil {
		t.Fatal(err)
	}
	descriptor, _ := got["containerimage.descriptor"].(map[string]any)
	if got["containerimage.digest"] != digestOf(t, img).String() || descriptor["digest"] != got["containerimage.digest"] ||
		got["image.name"] != "a:1,b:1" || got["nodeimg.recipe"] != "sha256:1234" {
		t.Errorf("metadata is %s", content)
	}
}
