package runtimes

import (
	"archive/tar"
	"bytes"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/nodeimg/nodeimg/internal/cache"
	"github.com/nodeimg/nodeimg/preload"
	"github.com/nodeimg/nodeimg/recipes"
	"github.com/nodeimg/nodeimg/test/internal/tools"
)

// epoch is the time of everything that nodeimg itself adds, modified that of what lies in images.
var (
	epoch    = time.Unix(1700000000, 0)
	modified = time.Unix(1600000000, 0)
)

// program is where images have the program that writes down the tree which it sees (test/conformance/dump).
const program = "conformance-dump"

// entry is a tar entry with its content.
type entry struct {
	header  tar.Header
	content string
}

func file(name, content string) entry {
	return entry{tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o640, Uid: 11, Gid: 70000}, content}
}

func dir(name string) entry {
	return entry{tar.Header{Typeflag: tar.TypeDir, Name: name + "/", Mode: 0o1775, Uid: 12, Gid: 13}, ""}
}

func symlink(name, target string) entry {
	return entry{tar.Header{Typeflag: tar.TypeSymlink, Name: name, Linkname: target, Mode: 0o777}, ""}
}

func hardLink(name, target string) entry {
	return entry{tar.Header{Typeflag: tar.TypeLink, Name: name, Linkname: target}, ""}
}

func device(name string) entry {
	return entry{tar.Header{Typeflag: tar.TypeChar, Name: name, Mode: 0o666, Devmajor: 1, Devminor: 3}, ""}
}

// whiteout deletes the name (image specification, "Whiteouts").
func whiteout(folder, name string) entry {
	return entry{tar.Header{Typeflag: tar.TypeReg, Name: folder + "/.wh." + name, Mode: 0o600}, ""}
}

// with gives the entry an extended attribute.
func (e entry) with(name, value string) entry {
	e.header.PAXRecords = map[string]string{"SCHILY.xattr." + name: value}
	return e
}

// netBind is security.capability with CAP_NET_BIND_SERVICE (linux/capability.h, VFS_CAP_REVISION_2).
const netBind = "\x01\x00\x00\x02\x00\x04\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"

// layerOf is a gzip layer with the entries.
func layerOf(t *testing.T, entries ...entry) v1.Layer {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, e := range entries {
		e.header.ModTime, e.header.Size = modified, int64(len(e.content))
		if err := w.WriteHeader(&e.header); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, e.content); err != nil {
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

// baseLayer has something of everything, and the program.
func baseLayer(t *testing.T) v1.Layer {
	t.Helper()
	path, err := tools.Command(t.Context(), "test/conformance/dump")
	if err != nil {
		t.Fatal(err)
	}
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	run := entry{tar.Header{Typeflag: tar.TypeReg, Name: program, Mode: 0o755}, string(content)}
	return layerOf(t, run, dir("d"), file("d/old", "old"), file("d/kept", "kept"), dir("d/sub"), file("d/sub/deep", "deep"),
		file("capable", "program").with("security.capability", netBind), file("tagged", "x").with("user.note", "n"),
		symlink("s", "d"), hardLink("d/hard", "d/old"), device("null"))
}

// imageOf is an OCI image for the platform with the layers.
func imageOf(t *testing.T, architecture, label string, layers ...v1.Layer) v1.Image {
	t.Helper()
	image := mutate.ConfigMediaType(mutate.MediaType(empty.Image, types.OCIManifestSchema1), types.OCIConfigJSON)
	image, err := mutate.ConfigFile(image, &v1.ConfigFile{
		OS: "linux", Architecture: architecture, RootFS: v1.RootFS{Type: "layers"}, Created: v1.Time{Time: modified},
		Config: v1.Config{Entrypoint: []string{"/" + program}, Cmd: []string{"/", "/out/tree"}, Labels: map[string]string{"label": label}},
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, layer := range layers {
		if image, err = mutate.Append(image, mutate.Addendum{Layer: layer, MediaType: types.OCILayer}); err != nil {
			t.Fatal(err)
		}
	}
	return image
}

// indexOf is an index with the image, and with another platform's before it.
func indexOf(t *testing.T, image v1.Image) v1.ImageIndex {
	t.Helper()
	foreign := imageOf(t, "arm64", "foreign", layerOf(t, file("foreign", "another platform")))
	index := mutate.IndexMediaType(empty.Index, types.OCIImageIndex)
	for architecture, image := range map[string]v1.Image{"arm64": foreign, "amd64": image} {
		index = mutate.AppendManifests(index, mutate.IndexAddendum{Add: image, Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: architecture}}})
	}
	return index
}

// startRegistry starts a registry on loopback and returns it with its host:port.
func startRegistry(t *testing.T) (http.Handler, string) {
	t.Helper()
	handler := registry.New(registry.Logger(log.New(io.Discard, "", 0)))
	server := httptest.NewServer(handler)
	t.Cleanup(server.Close)
	return handler, strings.TrimPrefix(server.URL, "http://")
}

// push writes an image or index into the registry and returns its digest.
func push(t *testing.T, reference string, what remote.Taggable) string {
	t.Helper()
	ref, err := name.ParseReference(reference)
	if err != nil {
		t.Fatal(err)
	}
	var digest v1.Hash
	switch made := what.(type) {
	case v1.ImageIndex:
		err = remote.WriteIndex(ref, made)
		digest, _ = made.Digest()
	case v1.Image:
		err = remote.Write(ref, made)
		digest, _ = made.Digest()
	}
	if err != nil {
		t.Fatal(err)
	}
	return digest.String()
}

// lock resolves and fetches images as a build does.
func lock(t *testing.T, c *cache.Cache, references ...string) []recipes.LockedImage {
	t.Helper()
	home := t.TempDir()
	write(t, filepath.Join(home, "config.json"), []byte("{}"))
	t.Setenv("DOCKER_CONFIG", home)
	s := &preload.Sources{Cache: c, Dir: home}
	var locked []recipes.LockedImage
	for _, reference := range references {
		images, err := s.Resolve(t.Context(), recipes.ImageSource{Registry: reference}, "linux/amd64", recipes.RoleUser)
		if err != nil {
			t.Fatal(err)
		}
		for _, image := range images {
			if err := s.Fetch(t.Context(), image); err != nil {
				t.Fatal(err)
			}
		}
		locked = append(locked, images...)
	}
	return locked
}

func newCache(t *testing.T) *cache.Cache {
	t.Helper()
	c, err := cache.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	return c
}
