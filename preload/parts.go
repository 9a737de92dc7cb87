package preload

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"

	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/platforms"
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
		if err := json.Unmarshal(b, &index); err != nil {
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
	manifest, err := parseManifest(b)
	if err != nil {
		return imageParts{}, fmt.Errorf("reading manifest %s of %s: %w", parts.manifest.Digest, image.Reference, err)
	}
	parts.config, parts.layers = manifest.Config, manifest.Layers
	return parts, nil
}

// parseManifest reads an image manifest, of OCI or Docker schema 2, and checks that all digests in it can be used.
func parseManifest(b []byte) (ocispec.Manifest, error) {
	var manifest ocispec.Manifest
	if err := json.Unmarshal(b, &manifest); err != nil {
		return ocispec.Manifest{}, err
	}
	for _, d := range append([]ocispec.Descriptor{manifest.Config}, manifest.Layers...) {
		if err := checkDescriptor(d); err != nil {
			return ocispec.Manifest{}, err
		}
	}
	return manifest, nil
}

func checkDescriptor(d ocispec.Descriptor) error {
	if err := d.Digest.Validate(); err != nil || d.Digest.Algorithm() != digest.SHA256 {
		return fmt.Errorf("%q is not a sha256 digest", d.Digest)
	}
	if d.Size < 0 {
		return fmt.Errorf("%s has the size %d", d.Digest, d.Size)
	}
	return nil
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
		return nil, fmt.Errorf("reading %s: larger than %d bytes, that is no manifest", name, maxManifest)
	}
	return b, nil
}

// lock resolves target, whose bytes are b, for platform, and stores its manifests and config, read by digest, in the cache. The order of
// preference among an index's manifests is containerd's own, because the node chooses by the same rule.
func lock(c *cache.Cache, reference string, target ocispec.Descriptor, b []byte, platform string, read func(ocispec.Descriptor) ([]byte, error)) (recipes.LockedImage, error) {
	wanted, err := platforms.Parse(platform)
	if err != nil {
		return recipes.LockedImage{}, recipes.InputErrorf("platform %q: %v", platform, err)
	}
	image := recipes.LockedImage{
		Reference: reference, MediaType: target.MediaType, Digest: target.Digest.String(), Size: target.Size,
		Manifest: target.Digest.String(), Platform: platforms.Format(wanted),
	}
	if _, err := c.PutBytes(b); err != nil {
		return recipes.LockedImage{}, err
	}
	if images.IsIndexType(target.MediaType) {
		chosen, err := choose(b, wanted)
		if err != nil {
			return recipes.LockedImage{}, err
		}
		if b, err = read(chosen); err != nil {
			return recipes.LockedImage{}, err
		}
		if _, err := c.PutBytes(b); err != nil {
			return recipes.LockedImage{}, err
		}
		image.Manifest = chosen.Digest.String()
	} else if !images.IsManifestType(target.MediaType) {
		return recipes.LockedImage{}, recipes.InputErrorf("%s has the media type %s, which is no container image", reference, target.MediaType)
	}
	manifest, err := parseManifest(b)
	if err != nil {
		return recipes.LockedImage{}, fmt.Errorf("reading manifest %s: %w", image.Manifest, err)
	}
	if !images.IsConfigType(manifest.Config.MediaType) {
		return recipes.LockedImage{}, recipes.InputErrorf("%s has a config of type %s, which is no container image", reference, manifest.Config.MediaType)
	}
	config, err := read(manifest.Config)
	if err != nil {
		return recipes.LockedImage{}, err
	}
	if err := checkPlatform(config, wanted); err != nil {
		return recipes.LockedImage{}, err
	}
	if _, err := c.PutBytes(config); err != nil {
		return recipes.LockedImage{}, err
	}
	parts, err := readParts(c, image)
	if err != nil {
		return recipes.LockedImage{}, err
	}
	image.Bytes = parts.bytes()
	return image, nil
}

// choose picks the manifest of an index that fits the platform best.
func choose(b []byte, wanted ocispec.Platform) (ocispec.Descriptor, error) {
	var index ocispec.Index
	if err := json.Unmarshal(b, &index); err != nil {
		return ocispec.Descriptor{}, fmt.Errorf("reading index: %w", err)
	}
	return chooseFrom(index.Manifests, wanted)
}

func chooseFrom(manifests []ocispec.Descriptor, wanted ocispec.Platform) (ocispec.Descriptor, error) {
	match := platforms.Only(wanted)
	var best *ocispec.Descriptor
	var offered []string
	for i, d := range manifests {
		if !images.IsManifestType(d.MediaType) || checkDescriptor(d) != nil || d.Annotations["vnd.docker.reference.type"] != "" {
			continue
		}
		if d.Platform == nil {
			// Without a platform it may be anything; its config will tell.
			if best == nil {
				best = &manifests[i]
			}
			continue
		}
		offered = append(offered, platforms.Format(*d.Platform))
		if match.Match(*d.Platform) && (best == nil || best.Platform == nil || match.Less(*d.Platform, *best.Platform)) {
			best = &manifests[i]
		}
	}
	if best == nil {
		return ocispec.Descriptor{}, recipes.InputErrorf("there is no image for %s, only for %s", platforms.Format(wanted), strings.Join(offered, ", "))
	}
	return *best, nil
}

// checkPlatform says whether an image with the given config runs on the platform.
func checkPlatform(config []byte, wanted ocispec.Platform) error {
	var image ocispec.Image
	if err := json.Unmarshal(config, &image); err != nil {
		return fmt.Errorf("reading the image's config: %w", err)
	}
	if image.OS == "" && image.Architecture == "" {
		return nil
	}
	if has := platforms.Normalize(image.Platform); !platforms.Only(wanted).Match(has) {
		return recipes.InputErrorf("the image is for %s, the node is %s", platforms.Format(has), platforms.Format(wanted))
	}
	return nil
}
