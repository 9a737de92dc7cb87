package preload

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"encoding/json"
	"errors"
	"io"
	"os"
	"testing"

	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// patchArchive writes the archive anew with what change makes of each entry's content.
func patchArchive(t *testing.T, file string, change func(name string, b []byte) []byte) {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var entries []entry
	for r := tar.NewReader(bytes.NewReader(b)); ; {
		header, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		content, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		entries = append(entries, entry{name: header.Name, content: change(header.Name, content)})
	}
	writeFile(t, file, tarOf(t, entries...))
}

// entry is a file of an archive that a test writes, a link, or a header of its own.
type entry struct {
	name    string
	content []byte
	header  tar.Header
}

func tarOf(t *testing.T, entries ...entry) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, e := range entries {
		header := e.header
		header.Name, header.Mode = e.name, 0o644
		if header.Typeflag == 0 {
			header.Typeflag = tar.TypeReg
		}
		if header.Size == 0 {
			header.Size = int64(len(e.content))
		}
		if err := w.WriteHeader(&header); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(e.content); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// blob is a file of a layout.
func blob(content []byte) (digest.Digest, entry) {
	d := digest.FromBytes(content)
	return d, entry{name: "blobs/sha256/" + d.Encoded(), content: content}
}

// written is an OCI archive that a test spoils: manifest and config as they are written down.
type written struct {
	config   ocispec.Image
	manifest ocispec.Manifest
	// descriptor is what index.json holds.
	descriptor ocispec.Descriptor
	extra      []entry
	// manifestText replaces what manifest would become, indexText the whole index.json.
	manifestText, indexText []byte
}

// entries returns the archive of a good image, spoilt.
func (w *written) entries(t *testing.T, spoil func(*written)) []entry {
	t.Helper()
	layer := tarOf(t, entry{name: "file", content: []byte("content")})
	layerDigest, layerEntry := blob(layer)
	w.config = ocispec.Image{Platform: ocispec.Platform{OS: "linux", Architecture: "amd64"}, RootFS: ocispec.RootFS{Type: "layers", DiffIDs: []digest.Digest{layerDigest}}}
	w.manifest = ocispec.Manifest{
		MediaType: ocispec.MediaTypeImageManifest, Config: ocispec.Descriptor{MediaType: ocispec.MediaTypeImageConfig},
		Layers: []ocispec.Descriptor{{MediaType: ocispec.MediaTypeImageLayer, Digest: layerDigest, Size: int64(len(layer))}},
	}
	w.manifest.SchemaVersion = 2
	w.descriptor = ocispec.Descriptor{MediaType: ocispec.MediaTypeImageManifest, Annotations: map[string]string{ocispec.AnnotationRefName: "example.com/app:1"}}
	// The first time shows what there is, the second time puts digests and sizes in that were left open.
	spoil(w)
	config := mustJSON(t, w.config)
	configDigest, configEntry := blob(config)
	if w.manifest.Config.Digest == "" {
		w.manifest.Config.Digest = configDigest
	}
	if w.manifest.Config.Size == 0 {
		w.manifest.Config.Size = int64(len(config))
	}
	manifest := w.manifestText
	if manifest == nil {
		manifest = mustJSON(t, w.manifest)
	}
	manifestDigest, manifestEntry := blob(manifest)
	if w.descriptor.Digest == "" {
		w.descriptor.Digest = manifestDigest
	}
	if w.descriptor.Size == 0 {
		w.descriptor.Size = int64(len(manifest))
	}
	index := w.indexText
	if index == nil {
		index = mustJSON(t, ocispec.Index{Manifests: []ocispec.Descriptor{w.descriptor}})
	}
	return append([]entry{{name: "oci-layout", content: []byte(LayoutFile)}, {name: "index.json", content: index}, layerEntry, configEntry, manifestEntry}, w.extra...)
}

func mustJSON(t *testing.T, v any) []byte {
	t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func configOf(t *testing.T, layers int) []byte {
	t.Helper()
	config := ocispec.Image{Platform: ocispec.Platform{OS: "linux", Architecture: "amd64"}}
	for range layers {
		config.RootFS.DiffIDs = append(config.RootFS.DiffIDs, digest.FromString("layer"))
	}
	return mustJSON(t, config)
}

func flip(b []byte) []byte {
	b = bytes.Clone(b)
	b[len(b)/2] ^= 1
	return b
}

func gzipOf(t *testing.T, b []byte) []byte {
	t.Helper()
	var out bytes.Buffer
	z := gzip.NewWriter(&out)
	if _, err := z.Write(b); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func zstdOf(t *testing.T, b []byte) []byte {
	t.Helper()
	encoder, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	return encoder.EncodeAll(b, nil)
}
