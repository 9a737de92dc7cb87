package modules

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/google/go-containerregistry/pkg/v1/validate"
	"github.com/opencontainers/go-digest"

	"github.com/nodeimg/nodeimg/internal/cache"
	"github.com/nodeimg/nodeimg/recipes"
)

var testEpoch = time.Unix(1700000000, 0).UTC()

// newPacker has every program of the table, each with a few bytes of its own, in a cache of its own.
func newPacker(t *testing.T, tools v1.Layer) *packer {
	t.Helper()
	c, err := cache.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	p := &packer{
		cache: c, target: platform{os: "linux", arch: "amd64"}, epoch: testEpoch, programs: map[string]file{},
	}
	if tools != nil {
		if err := p.addTools(t.Context(), func(context.Context) (v1.Layer, error) { return tools, nil }); err != nil {
			t.Fatal(err)
		}
	}
	for _, project := range projectsFor(Request{Kubernetes: "v1.34.10", CRI: recipes.CRI{Name: recipes.CRIContainerd, Version: "2.4.2"}, CNI: recipes.CNIFlannel}) {
		for _, prog := range project.programs {
			name := project.name + "/" + prog.name()
			content := bytes.Repeat([]byte(name), 1<<14)
			d, err := c.PutBytes(content)
			if err != nil {
				t.Fatal(err)
			}
			p.programs[name] = file{Digest: d, Size: int64(len(content))}
		}
	}
	return p
}

// load reads an image from the blobs in the cache, through an OCI layout.
func load(t *testing.T, c *cache.Cache, locked recipes.LockedImage) v1.Image {
	t.Helper()
	path, err := layout.Write(t.TempDir(), empty.Index)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.RemoveAll(filepath.Join(string(path), "blobs")); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(filepath.Join(c.Root(), "blobs"), filepath.Join(string(path), "blobs")); err != nil {
		t.Fatal(err)
	}
	hash, err := v1.NewHash(locked.Manifest)
	if err != nil {
		t.Fatal(err)
	}
	if err := path.AppendDescriptor(v1.Descriptor{MediaType: types.MediaType(locked.MediaType), Digest: hash, Size: locked.Size}); err != nil {
		t.Fatal(err)
	}
	img, err := path.Image(hash)
	if err != nil {
		t.Fatal(err)
	}
	return img
}

func TestPack(t *testing.T) {
	tools, err := random.Layer(1<<12, types.OCILayer)
	if err != nil {
		t.Fatal(err)
	}
	images := imagesFor(Request{Kubernetes: "v1.34.10", CNI: recipes.CNIFlannel})
	first, second := newPacker(t, tools), newPacker(t, tools)
	locked, err := first.packAll(t.Context(), images)
	if err != nil {
		t.Fatal(err)
	}
	elsewhere, err := second.packAll(t.Context(), images)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(locked, elsewhere); diff != "" {
		t.Errorf("packing in another cache gives something else (-first +second):\n%s", diff)
	}
	again, err := first.packAll(t.Context(), images)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(locked, again); diff != "" {
		t.Errorf("packing again gives something else (-first +second):\n%s", diff)
	}
	for i, image := range images {
		t.Run(image.title, func(t *testing.T) {
			img := load(t, first.cache, locked[i])
			if err := validate.Image(img); err != nil {
				t.Error(err)
			}
			checkImage(t, image, locked[i], img)
		})
	}
}

// checkImage compares the packed image with its description.
func checkImage(t *testing.T, want image, locked recipes.LockedImage, img v1.Image) {
	t.Helper()
	manifest, err := img.Manifest()
	if err != nil {
		t.Fatal(err)
	}
	bytesInAll := locked.Size + manifest.Config.Size
	for _, l := range manifest.Layers {
		bytesInAll += l.Size
	}
	if locked.Bytes != bytesInAll || locked.Role != want.role || locked.Digest != locked.Manifest || locked.MediaType != string(types.OCIManifestSchema1) {
		t.Errorf("locked as %+v, has %d bytes", locked, bytesInAll)
	}
	config, err := img.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	if !config.Created.Equal(testEpoch) || config.Architecture != "amd64" || config.OS != "linux" || config.Config.User != want.user ||
		!slices.Equal(config.Config.Entrypoint, want.entrypoint) {
		t.Errorf("config is %+v", config)
	}
	layers, err := img.Layers()
	if err != nil {
		t.Fatal(err)
	}
	rc, err := layers[len(layers)-1].Uncompressed()
	if err != nil {
		t.Fatal(err)
	}
	defer rc.Close()
	var names []string
	programs := map[string]bool{}
	for archive := tar.NewReader(rc); ; {
		header, err := archive.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		names = append(names, header.Name)
		if header.Uid != 0 || header.Gid != 0 || !header.ModTime.Equal(testEpoch) || header.Mode != 0o755 {
			t.Errorf("%s: uid %d gid %d mode %o time %s", header.Name, header.Uid, header.Gid, header.Mode, header.ModTime)
		}
		if header.Typeflag == tar.TypeReg {
			programs["/"+header.Name] = header.PAXRecords[capabilityRecord] == string(bindServiceCapability())
		}
	}
	if !slices.IsSorted(names) {
		t.Errorf("entries are not sorted: %q", names)
	}
	wanted := map[string]bool{}
	for _, f := range want.files {
		wanted[f.path] = f.bindService
	}
	if diff := cmp.Diff(wanted, programs); diff != "" {
		t.Errorf("programs and whether they may bind (-want +got):\n%s", diff)
	}
}

// TestBindServiceCapability compares with the attribute that libcap's setcap writes for cap_net_bind_service=+ep.
func TestBindServiceCapability(t *testing.T) {
	if got, want := hex.EncodeToString(bindServiceCapability()), "0100000200040000000000000000000000000000"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

func TestPackFailures(t *testing.T) {
	img := image{reference: "example.com/app:v1", title: "app", files: []imageFile{{program: "etcd/server", path: "/app"}}}
	t.Run("a lost program", func(t *testing.T) {
		p := newPacker(t, nil)
		d := p.programs["etcd/server"].Digest
		if err := os.Remove(p.cache.Path(d)); err != nil {
			t.Fatal(err)
		}
		_, err := p.packAll(t.Context(), []image{img})
		if err == nil || !strings.Contains(err.Error(), "example.com/app:v1") || !errors.Is(err, os.ErrNotExist) {
			t.Errorf("error %v", err)
		}
		assertOnlyBlobs(t, p)
	})
	t.Run("cancelled", func(t *testing.T) {
		p := newPacker(t, nil)
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err := p.packAll(ctx, []image{img}); !errors.Is(err, context.Canceled) {
			t.Errorf("error %v", err)
		}
		assertOnlyBlobs(t, p)
	})
}

// assertOnlyBlobs checks that the failure left neither facts nor unfinished files.
func assertOnlyBlobs(t *testing.T, p *packer) {
	t.Helper()
	for _, dir := range []string{"facts", "partial"} {
		left, err := os.ReadDir(filepath.Join(p.cache.Root(), dir))
		if err != nil || len(left) != 0 {
			t.Errorf("left in %s: %v, %v", dir, left, err)
		}
	}
	blobs, err := os.ReadDir(filepath.Join(p.cache.Root(), "blobs", "sha256"))
	if err != nil {
		t.Fatal(err)
	}
	for _, b := range blobs {
		if digest.NewDigestFromEncoded(digest.SHA256, b.Name()).Validate() != nil {
			t.Errorf("%s is no blob", b.Name())
		}
	}
}
