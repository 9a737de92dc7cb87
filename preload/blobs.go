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
