package sources

import (
	"fmt"
	"io"
	"os"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/partial"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/opencontainers/go-digest"

	"github.com/nodeimg/nodeimg/internal/cache"
)

// CachedImage returns the image whose manifest has the digest d; its config and layers must be in the cache too when they are asked for.
func CachedImage(c *cache.Cache, d digest.Digest) (v1.Image, error) {
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
			return &cachedLayer{cache: i.cache, descriptor: layer}, nil
		}
	}
	return nil, fmt.Errorf("image has no layer %s", hash)
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
	return l.cache.Open(digest.Digest(l.descriptor.Digest.String()))
}
