package preload

import (
	"fmt"
	"io"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/nodeimg/nodeimg/internal/cache"
	"github.com/nodeimg/nodeimg/recipes"
)

// maxManifest is the largest manifest, index or config that is read, in bytes. The distribution specification asks registries to
// accept manifests of up to 4 MiB; configs get the same.
const maxManifest = 4 << 20

// imageParts are the blobs that one image consists of on one platform.
type imageParts struct {
	// target is what the reference names; equal to manifest unless it is an index.
	target, manifest, config ocispec.Descriptor
	layers                   []ocispec.Descriptor
}

// all returns every blob once, target first.
func (p imageParts) all() []ocispec.Descriptor {
	list := append([]ocispec.Descriptor{p.target, p.manifest, p.config}, p.layers...)
	seen := map[digest.Digest]bool{}
	unique := list[:0]
	for _, d := range list {
		if !seen[d.Digest] {
			seen[d.Digest] = true
			unique = append(unique, d)
		}
	}
	return unique
}

// bytes is the sum of the sizes of manifest, config and layers as transferred.
func (p imageParts) bytes() int64 {
	var sum int64
	for _, d := range p.all() {
		sum += d.Size
	}
	if p.target.Digest != p.manifest.Digest {
		sum -= p.target.Size
	}
	return sum
}

// readParts lists the blobs of a locked image from its manifests in the cache.
func readParts(c *cache.Cache, image recipes.LockedImage) (imageParts, error) {
	return partsOf(image, func(d digest.Digest) ([]byte, error) { return readSmall(c, d) })
}

// partsOf lists the blobs of a locked image; read returns the bytes of its manifests.
func partsOf(image recipes.LockedImage, read func(digest.Digest) ([]byte, error)) (imageParts, error) {
	target := ocispec.Descriptor{MediaType: image.MediaType, Digest: digest.Digest(image.Digest), Size: image.Size}
	parts := imageParts{target: target, manifest: target}
	if image.Manifest != image.Digest {
		b, err := read(target.Digest)
		if err != nil {
			return imageParts{}, err
		}
		var index ocispec.Index
		if err := decodeJSON(b, &index); err != nil {
			return imageParts{}, fmt.Errorf("reading index %s of %s: %w", target.Digest, image.Reference, err)
		}
		found := false
		for _, d := range index.Manifests {
			if d.Digest.String() == image.Manifest {
				parts.manifest, found = d, true
			}
		}
		if !found {
			return imageParts{}, fmt.Errorf("reading index %s of %s: it does not hold the locked manifest %s", target.Digest, image.Reference, image.Manifest)
		}
	}
	b, err := read(parts.manifest.Digest)
	if err != nil {
		return imageParts{}, err
	}
	// An index may list one manifest several times, not always with its true size.
	parts.manifest.Size = int64(len(b))
	manifest, err := parseManifest(b)
	if err != nil {
		return imageParts{}, fmt.Errorf("reading manifest %s of %s: %w", parts.manifest.Digest, image.Reference, err)
	}
	parts.config, parts.layers = manifest.Config, manifest.Layers
	return parts, nil
}

// readSmall reads a manifest, index or config from the cache.
func readSmall(c *cache.Cache, d digest.Digest) ([]byte, error) {
	f, err := c.Open(d)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return readLimited(f, d.String())
}

// readLimited reads a manifest, index or config called name.
func readLimited(r io.Reader, name string) ([]byte, error) {
	b, err := io.ReadAll(io.LimitReader(r, maxManifest+1))
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", name, err)
	}
	if len(b) > maxManifest {
		return nil, recipes.InputErrorf("%s is larger than %d bytes, which no manifest, index or config is", name, maxManifest)
	}
	return b, nil
}
