package preload

import (
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/nodeimg/nodeimg/internal/cache"
	"github.com/nodeimg/nodeimg/recipes"
)

// Blobs lists every blob that belongs to the image in the store, each once: what the reference names, the platform's manifest, its
// config and its layers. The manifests must be in the cache.
func Blobs(c *cache.Cache, image recipes.LockedImage) ([]ocispec.Descriptor, error) {
	parts, err := readParts(c, image)
	if err != nil {
		return nil, err
	}
	return parts.all(), nil
}

// Parts are the blobs that one image consists of on one platform.
type Parts struct {
	// Target is what the reference names; equal to Manifest unless it is an index.
	Target, Manifest, Config ocispec.Descriptor
	// Layers of the image, the lowest first.
	Layers []ocispec.Descriptor
}

// ReadParts lists the blobs of a locked image. Its manifests must be in the cache.
func ReadParts(c *cache.Cache, image recipes.LockedImage) (Parts, error) {
	parts, err := readParts(c, image)
	if err != nil {
		return Parts{}, err
	}
	return Parts{Target: parts.target, Manifest: parts.manifest, Config: parts.config, Layers: parts.layers}, nil
}
