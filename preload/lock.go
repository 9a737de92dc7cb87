package preload

import (
	"slices"
	"strings"

	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/platforms"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/nodeimg/nodeimg/internal/cache"
	"github.com/nodeimg/nodeimg/recipes"
)

// lock resolves target, whose bytes are b, for platform, and stores its manifests and config, read by digest, in the cache, once all of
// them are found to be sound. The order of preference among an index's manifests is containerd's own, because the node chooses by the
// same rule.
func lock(c *cache.Cache, reference string, target ocispec.Descriptor, b []byte, platform string, read func(ocispec.Descriptor) ([]byte, error)) (recipes.LockedImage, error) {
	wanted, err := platforms.Parse(platform)
	if err != nil {
		return recipes.LockedImage{}, recipes.InputErrorf("platform %q: %v", platform, err)
	}
	image := recipes.LockedImage{
		Reference: reference, MediaType: target.MediaType, Digest: target.Digest.String(), Size: target.Size,
		Manifest: target.Digest.String(), Platform: platforms.Format(wanted),
	}
	sound := [][]byte{b}
	chosen := target
	if images.IsIndexType(target.MediaType) {
		if chosen, err = choose(b, wanted); err != nil {
			return recipes.LockedImage{}, err
		}
		if b, err = readSized(chosen, read); err != nil {
			return recipes.LockedImage{}, err
		}
		sound = append(sound, b)
		image.Manifest = chosen.Digest.String()
	} else if !images.IsManifestType(target.MediaType) {
		return recipes.LockedImage{}, recipes.InputErrorf("it has the media type %q, which is no container image", shorten(target.MediaType))
	}
	manifest, err := parseManifest(b)
	if err == nil {
		err = checkManifest(manifest)
	}
	if err != nil {
		return recipes.LockedImage{}, recipes.InputErrorf("its manifest %s: %v", image.Manifest, err)
	}
	config, err := readSized(manifest.Config, read)
	if err != nil {
		return recipes.LockedImage{}, err
	}
	// Without a platform in the index, containerd believes the config, and then it must name one.
	strict := chosen.Digest != target.Digest && chosen.Platform == nil
	if err := checkConfig(config, manifest, wanted, strict); err != nil {
		return recipes.LockedImage{}, err
	}
	for _, b := range append(sound, config) {
		if _, err := c.PutBytes(b); err != nil {
			return recipes.LockedImage{}, err
		}
	}
	parts, err := readParts(c, image)
	if err != nil {
		return recipes.LockedImage{}, err
	}
	image.Bytes = parts.bytes()
	return image, nil
}

// readSized reads a manifest or config and compares its size with its descriptor.
func readSized(d ocispec.Descriptor, read func(ocispec.Descriptor) ([]byte, error)) ([]byte, error) {
	if d.Size > maxManifest {
		return nil, recipes.InputErrorf("%s (%s) is larger than %d bytes, which no manifest or config is", d.Digest, d.MediaType, maxManifest)
	}
	b, err := read(d)
	if err != nil {
		return nil, err
	}
	if int64(len(b)) != d.Size {
		return nil, wrongSize(d, int64(len(b)))
	}
	return b, nil
}

// choose picks the manifest of an index that fits the platform best.
func choose(b []byte, wanted ocispec.Platform) (ocispec.Descriptor, error) {
	var index struct {
		ocispec.Index
		Config any `json:"config"`
		Layers any `json:"layers"`
	}
	if err := decodeJSON(b, &index); err != nil {
		return ocispec.Descriptor{}, recipes.InputErrorf("its index: %v", err)
	}
	if index.Config != nil || index.Layers != nil {
		return ocispec.Descriptor{}, recipes.InputErrorf("its index is an image manifest too: it has a config or layers")
	}
	return chooseFrom(index.Manifests, wanted)
}

// chooseFrom picks the manifest that fits the platform best, as containerd does (core/images/image.go, Manifest): of those with a
// platform the best match, else the first that has none, whose config will tell.
func chooseFrom(manifests []ocispec.Descriptor, wanted ocispec.Platform) (ocispec.Descriptor, error) {
	match := platforms.Only(wanted)
	var fitting []ocispec.Descriptor
	var offered []string
	for _, d := range manifests {
		if d.Annotations["vnd.docker.reference.type"] != "" {
			continue
		}
		if d.Platform == nil || match.Match(*d.Platform) {
			fitting = append(fitting, d)
		}
		if d.Platform != nil && len(offered) < 20 {
			offered = append(offered, platforms.Format(*d.Platform))
		}
	}
	if len(fitting) == 0 {
		if len(offered) == 0 {
			return ocispec.Descriptor{}, recipes.InputErrorf("its index names no image at all")
		}
		return ocispec.Descriptor{}, recipes.InputErrorf("there is no image for %s, only for %s", platforms.Format(wanted), shorten(strings.Join(offered, ", ")))
	}
	slices.SortStableFunc(fitting, func(a, b ocispec.Descriptor) int {
		switch {
		case a.Platform == nil && b.Platform == nil:
			return 0
		case a.Platform == nil:
			return 1
		case b.Platform == nil || match.Less(*a.Platform, *b.Platform):
			return -1
		case match.Less(*b.Platform, *a.Platform):
			return 1
		default:
			return 0
		}
	})
	best := fitting[0]
	if err := checkDescriptor(best); err != nil {
		return ocispec.Descriptor{}, recipes.InputErrorf("its index: %v", err)
	}
	if images.IsIndexType(best.MediaType) {
		return ocispec.Descriptor{}, recipes.InputErrorf("its index leads to another index, %s; name that one, or the image for %s in it, by digest", best.Digest, platforms.Format(wanted))
	}
	if !images.IsManifestType(best.MediaType) {
		return ocispec.Descriptor{}, recipes.InputErrorf("its index leads to %s with the media type %q, which is no container image", best.Digest, shorten(best.MediaType))
	}
	return best, nil
}
