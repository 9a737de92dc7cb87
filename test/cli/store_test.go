package cli

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"errors"
	"io"
	"path"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/opencontainers/go-digest"

	"github.com/nodeimg/nodeimg/recipes"
)

// visitFiles calls visit with every regular file of every layer.
func visitFiles(t *testing.T, image v1.Image, visit func(name string, content io.Reader)) {
	t.Helper()
	layers := mustLayers(t, image)
	for _, layer := range layers {
		stream, err := layer.Uncompressed()
		if err != nil {
			t.Fatal(err)
		}
		r := tar.NewReader(stream)
		for {
			header, err := r.Next()
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				t.Fatal(err)
			}
			if header.Typeflag == tar.TypeReg {
				visit(path.Clean("/"+header.Name), r)
			}
		}
		if err := stream.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// storeBlobs reads the blobs of the store out of the node image's layers.
func storeBlobs(t *testing.T, image v1.Image) map[digest.Digest][]byte {
	t.Helper()
	blobs := map[digest.Digest][]byte{}
	visitFiles(t, image, func(name string, content io.Reader) {
		encoded, ok := strings.CutPrefix(name, recipes.StorePath+"/blobs/sha256/")
		if !ok {
			return
		}
		b, err := io.ReadAll(content)
		if err != nil {
			t.Fatal(err)
		}
		blobs[digest.NewDigestFromEncoded(digest.SHA256, encoded)] = b
	})
	return blobs
}

// checkBlobs fails the test unless manifest, config and layers of the image lie in the store byte for byte.
func checkBlobs(t *testing.T, name string, image v1.Image, blobs map[digest.Digest][]byte) {
	t.Helper()
	var wanted [][]byte
	for _, raw := range []func() ([]byte, error){image.RawManifest, image.RawConfigFile} {
		b, err := raw()
		if err != nil {
			t.Fatal(err)
		}
		wanted = append(wanted, b)
	}
	layers := mustLayers(t, image)
	for _, layer := range layers {
		r, err := layer.Compressed()
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		if err := r.Close(); err != nil {
			t.Fatal(err)
		}
		wanted = append(wanted, b)
	}
	for i, want := range wanted {
		if got, ok := blobs[digest.FromBytes(want)]; !ok || !bytes.Equal(got, want) {
			t.Errorf("blob %d of %s is not in the store as it was (there: %v)", i, name, ok)
		}
	}
}

// checkContent fails the test unless the store holds, under the manifest, an image with the same config and layers of the same content.
func checkContent(t *testing.T, name string, image v1.Image, manifest digest.Digest, blobs map[digest.Digest][]byte) {
	t.Helper()
	m, err := v1.ParseManifest(bytes.NewReader(blobs[manifest]))
	if err != nil {
		t.Fatalf("the manifest of %s in the store: %v", name, err)
	}
	config, err := image.RawConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(blobs[digest.Digest(m.Config.Digest.String())], config) {
		t.Errorf("%s has another config in the store", name)
	}
	layers := mustLayers(t, image)
	if len(layers) != len(m.Layers) {
		t.Fatalf("%s has %d layers in the store, want %d", name, len(m.Layers), len(layers))
	}
	for i, layer := range layers {
		want, err := layer.DiffID()
		if err != nil {
			t.Fatal(err)
		}
		blob := blobs[digest.Digest(m.Layers[i].Digest.String())]
		if z, err := gzip.NewReader(bytes.NewReader(blob)); err == nil {
			if blob, err = io.ReadAll(z); err != nil {
				t.Fatal(err)
			}
		}
		if got := digest.FromBytes(blob); got.String() != want.String() {
			t.Errorf("layer %d of %s has other content in the store: %s, want %s", i, name, got, want)
		}
	}
}
