// Package cachedimage shows images and layers whose blobs lie in the cache as go-containerregistry's types. Nothing is copied, and a blob
// is opened only when somebody reads it. What is shown was verified when it was stored.
package cachedimage

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/partial"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/opencontainers/go-digest"

	"github.com/nodeimg/nodeimg/internal/cache"
)

// Open returns the image whose manifest has the digest d; its config and layers must be in the cache too when they are asked for.
func Open(c *cache.Cache, d digest.Digest) (v1.Image, error) {
	raw, err := os.ReadFile(c.Path(d))
	if err != nil {
		return nil, fmt.Errorf("reading image %s from the cache: %w", d, err)
	}
	image, err := partial.CompressedToImage(&cachedImage{cache: c, manifest: raw})
	if err != nil {
		return nil, fmt.Errorf("reading image %s from the cache: %w", d, err)
	}
	return image, nil
}

// Put stores the image's layers, config and manifest, those that are not there yet, and returns the manifest's digest for Open.
func Put(c *cache.Cache, image v1.Image) (digest.Digest, error) {
	layers, err := image.Layers()
	if err != nil {
		return "", fmt.Errorf("storing an image in the cache: %w", err)
	}
	for _, layer := range layers {
		if err := putLayer(c, layer); err != nil {
			return "", fmt.Errorf("storing an image in the cache: %w", err)
		}
	}
	config, err := image.RawConfigFile()
	if err != nil {
		return "", fmt.Errorf("storing an image in the cache: %w", err)
	}
	if _, err := c.PutBytes(config); err != nil {
		return "", err
	}
	manifest, err := image.RawManifest()
	if err != nil {
		return "", fmt.Errorf("storing an image in the cache: %w", err)
	}
	return c.PutBytes(manifest)
}

func putLayer(c *cache.Cache, layer v1.Layer) error {
	hash, err := layer.Digest()
	if err != nil {
		return err
	}
	d := digest.Digest(hash.String())
	if c.Has(d) {
		return nil
	}
	r, err := layer.Compressed()
	if err != nil {
		return err
	}
	_, _, err = c.Put(r, d)
	return errors.Join(err, r.Close())
}

// Complete says whether the manifest with the digest d, its config and all its layers lie in the cache in full length.
func Complete(c *cache.Cache, d digest.Digest) bool {
	raw, err := os.ReadFile(c.Path(d))
	if err != nil {
		return false
	}
	manifest, err := v1.ParseManifest(bytes.NewReader(raw))
	if err != nil {
		return false
	}
	for _, blob := range append(manifest.Layers, manifest.Config) {
		if size, err := c.Size(digest.Digest(blob.Digest.String())); err != nil || size != blob.Size {
			return false
		}
	}
	return true
}

// cachedImage implements partial.CompressedImageCore over blobs of the cache.
type cachedImage struct {
	cache    *cache.Cache
	manifest []byte
}

func (i *cachedImage) RawManifest() ([]byte, error) { return i.manifest, nil }

func (i *cachedImage) MediaType() (types.MediaType, error) {
	manifest, err := partial.Manifest(i)
	if err != nil {
		return "", err
	}
	if manifest.MediaType == "" {
		return types.OCIManifestSchema1, nil
	}
	return manifest.MediaType, nil
}

func (i *cachedImage) RawConfigFile() ([]byte, error) {
	manifest, err := partial.Manifest(i)
	if err != nil {
		return nil, err
	}
	return os.ReadFile(i.cache.Path(digest.Digest(manifest.Config.Digest.String())))
}

func (i *cachedImage) LayerByDigest(hash v1.Hash) (partial.CompressedLayer, error) {
	manifest, err := partial.Manifest(i)
	if err != nil {
		return nil, err
	}
	for _, layer := range append(manifest.Layers, manifest.Config) {
		if layer.Digest == hash {
			return Layer(i.cache, layer), nil
		}
	}
	return nil, fmt.Errorf("image has no layer %s", hash)
}

// Layer returns the compressed layer that the descriptor names.
func Layer(c *cache.Cache, descriptor v1.Descriptor) partial.CompressedLayer {
	return &cachedLayer{cache: c, descriptor: descriptor}
}

// cachedLayer implements partial.CompressedLayer.
type cachedLayer struct {
	cache      *cache.Cache
	descriptor v1.Descriptor
}

func (l *cachedLayer) Digest() (v1.Hash, error) { return l.descriptor.Digest, nil }

func (l *cachedLayer) Size() (int64, error) { return l.descriptor.Size, nil }

func (l *cachedLayer) MediaType() (types.MediaType, error) { return l.descriptor.MediaType, nil }

func (l *cachedLayer) Compressed() (io.ReadCloser, error) {
	f, err := l.cache.Open(digest.Digest(l.descriptor.Digest.String()))
	if err != nil {
		return nil, err
	}
	return f, nil
}

// Descriptor implements partial.Descriptor.
func (l *cachedLayer) Descriptor() (*v1.Descriptor, error) { return &l.descriptor, nil }

// Exists implements partial.Exists.
func (l *cachedLayer) Exists() (bool, error) {
	return l.cache.Has(digest.Digest(l.descriptor.Digest.String())), nil
}

// GzipLayer returns the gzip layer with the digest d, its diff ID and its size in bytes. The diff ID is taken as given, where
// go-containerregistry would otherwise unpack the layer to compute it.
func GzipLayer(c *cache.Cache, d, diffID digest.Digest, size int64) (v1.Layer, error) {
	hash, err := v1.NewHash(d.String())
	if err != nil {
		return nil, fmt.Errorf("reading a layer from the cache: %w", err)
	}
	known, err := v1.NewHash(diffID.String())
	if err != nil {
		return nil, fmt.Errorf("reading a layer from the cache: %w", err)
	}
	return partial.CompressedToLayer(knownLayer{Layer(c, v1.Descriptor{MediaType: types.OCILayer, Digest: hash, Size: size}), known})
}

// knownLayer implements partial.WithDiffID.
type knownLayer struct {
	partial.CompressedLayer
	diffID v1.Hash
}

func (l knownLayer) DiffID() (v1.Hash, error) { return l.diffID, nil }
