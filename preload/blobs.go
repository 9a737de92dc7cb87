package preload

import (
	"fmt"

	"github.com/opencontainers/go-digest"
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
	// DiffIDs of the layers, as the config names them.
	DiffIDs []digest.Digest
}

// ReadParts lists the blobs of a locked image from its manifests and its config, which must be in the cache. The error says so when the
// config does not name as many layers as the manifest.
func ReadParts(c *cache.Cache, image recipes.LockedImage) (Parts, error) {
	parts, err := readParts(c, image)
	if err != nil {
		return Parts{}, err
	}
	b, err := readSmall(c, parts.config.Digest)
	if err != nil {
		return Parts{}, err
	}
	var config ocispec.Image
	if err := decodeJSON(b, &config); err != nil {
		return Parts{}, fmt.Errorf("reading config %s of %s: %w", parts.config.Digest, image.Reference, err)
	}
	if err := checkDiffIDs(config, parts.layers); err != nil {
		return Parts{}, recipes.InputErrorf("%s: its config %s %v", image.Reference, parts.config.Digest, err)
	}
	return Parts{Target: parts.target, Manifest: parts.manifest, Config: parts.config, Layers: parts.layers, DiffIDs: config.RootFS.DiffIDs}, nil
}
