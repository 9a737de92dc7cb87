package preload

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"

	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/platforms"
	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/nodeimg/nodeimg/internal/cache"
	"github.com/nodeimg/nodeimg/recipes"
)

// describer finds out what a name or a nameless image in an archive stands for: a manifest or an index.
type describer func() (ocispec.Descriptor, error)

// named is one image name and what it names: one manifest or index, or a manifest for each of several platforms.
type named struct {
	reference string
	// digest is what the reference itself says; empty when it has none.
	digest    digest.Digest
	manifests []describer
}

// nameless is an image without a name, perhaps with a tag, which is how the image specification lets a layout tell its images apart.
type nameless struct {
	tag      string
	describe describer
}

// scan finds all images by name.
func (l *local) scan() error {
	saved, err := l.readSaved()
	if err != nil {
		return err
	}
	b, err := l.readFile(ocispec.ImageIndexFile)
	switch {
	case errors.Is(err, fs.ErrNotExist) && saved == nil:
		return recipes.InputErrorf("%s is neither an OCI layout nor a docker-archive: it holds no index.json and no manifest.json", l.name)
	case errors.Is(err, fs.ErrNotExist):
		return l.scanSaved(saved)
	case err != nil:
		return err
	}
	var index ocispec.Index
	if err := decodeJSON(b, &index); err != nil {
		return recipes.InputErrorf("%s: index.json: %v", l.name, err)
	}
	for _, d := range index.Manifests {
		if err := checkDescriptor(d); err != nil {
			return recipes.InputErrorf("%s: index.json: %v", l.name, err)
		}
		describe := func() (ocispec.Descriptor, error) { return d, nil }
		names := annotatedNames(d)
		if len(names) == 0 {
			names = l.savedNames(saved, d)
		}
		if len(names) == 0 {
			l.nameless = append(l.nameless, nameless{d.Annotations[ocispec.AnnotationRefName], describe})
		}
		for _, n := range names {
			if err := l.add(n, describe); err != nil {
				return err
			}
		}
	}
	return nil
}

// annotatedNames returns the image name that a descriptor of index.json carries: containerd's full one, else the one that the image
// specification has, unless that is a mere tag, which names no image.
func annotatedNames(d ocispec.Descriptor) []string {
	if n := d.Annotations[images.AnnotationImageName]; n != "" {
		return []string{n}
	}
	if n := d.Annotations[ocispec.AnnotationRefName]; strings.ContainsAny(n, ":/") {
		return []string{n}
	}
	return nil
}

func (l *local) add(raw string, describe describer) error {
	ref, d, err := normalize(raw)
	if err != nil {
		return fmt.Errorf("%s: %w", l.name, err)
	}
	full := ref.String()
	for i := range l.found {
		if l.found[i].reference == full && l.found[i].digest == d {
			l.found[i].manifests = append(l.found[i].manifests, describe)
			return nil
		}
	}
	l.found = append(l.found, named{full, d, []describer{describe}})
	return nil
}

// choose keeps the image that want names, or all images with names when want is empty. An image without a name takes the wanted one when
// there is only one such image, or only one with the wanted tag.
func (l *local) choose(want string) error {
	if want == "" {
		if len(l.found) == 0 {
			return recipes.InputErrorf("%s holds no image with a name; give it one with \"name\", or save it with one, for instance \"docker save NAME:TAG\" or \"skopeo copy … oci:DIR:NAME:TAG\"", l.name)
		}
		return nil
	}
	ref, d, err := normalize(want)
	if err != nil {
		return err
	}
	full := ref.String()
	for _, n := range l.found {
		if n.reference == full {
			n.digest = d
			l.found = []named{n}
			return nil
		}
	}
	candidates := l.nameless
	if tagged, ok := ref.(reference.Tagged); ok && len(candidates) > 1 {
		candidates = slices.DeleteFunc(slices.Clone(candidates), func(n nameless) bool { return n.tag != tagged.Tag() })
	}
	if len(candidates) == 1 {
		l.found = []named{{full, d, []describer{candidates[0].describe}}}
		return nil
	}
	names := make([]string, len(l.found))
	for i, n := range l.found {
		names[i] = n.reference
	}
	return recipes.InputErrorf("%s holds no image named %s; it holds %s%s", l.name, full, l.contents(names), recipes.DidYouMean(full, names))
}

// contents lists the images for an error.
func (l *local) contents(names []string) string {
	const most = 10
	text := strings.Join(names[:min(len(names), most)], ", ")
	if more := len(names) - most; more > 0 {
		text += fmt.Sprintf(" and %d more", more)
	}
	if len(l.nameless) > 0 {
		if text != "" {
			text += ", and "
		}
		text += fmt.Sprintf("%d without a name", len(l.nameless))
	}
	if text == "" {
		return "none"
	}
	return text
}

// resolve locks every image for the platform, and puts manifests and configs into the cache.
func (l *local) resolve(c *cache.Cache, platform string) ([]recipes.LockedImage, error) {
	var locked []recipes.LockedImage
	for _, n := range l.found {
		image, err := l.resolveOne(c, n, platform)
		if err != nil {
			return nil, fmt.Errorf("%s: %s: %w", l.name, n.reference, err)
		}
		locked = append(locked, image)
	}
	return locked, nil
}

func (l *local) resolveOne(c *cache.Cache, n named, platform string) (recipes.LockedImage, error) {
	target, err := l.target(n, platform)
	if err != nil {
		return recipes.LockedImage{}, err
	}
	b, err := l.readBlob(target)
	if err != nil {
		return recipes.LockedImage{}, err
	}
	target = ocispec.Descriptor{MediaType: mediaType(target.MediaType, b), Digest: target.Digest, Size: int64(len(b))}
	if n.digest != "" && n.digest != target.Digest {
		return recipes.LockedImage{}, recipes.InputErrorf("what lies there has the digest %s, not %s (the Docker Engine's classic image store and docker-archives "+
			"do not keep manifests, so that their images have other digests than in the registry); name it by its tag, or take it from the registry", target.Digest, n.digest)
	}
	return lock(c, n.reference, target, b, platform, l.readBlob)
}

// target returns what the name stands for. Where that is several manifests, one of them must fit the platform better than all others.
func (l *local) target(n named, platform string) (ocispec.Descriptor, error) {
	var manifests []ocispec.Descriptor
	for _, describe := range n.manifests {
		d, err := describe()
		if err != nil {
			return ocispec.Descriptor{}, err
		}
		if !slices.ContainsFunc(manifests, func(o ocispec.Descriptor) bool { return o.Digest == d.Digest }) {
			manifests = append(manifests, d)
		}
	}
	if len(manifests) == 1 {
		return manifests[0], nil
	}
	wanted, err := platforms.Parse(platform)
	if err != nil {
		return ocispec.Descriptor{}, recipes.InputErrorf("platform %q: %v", platform, err)
	}
	for i := range manifests {
		if manifests[i].Platform == nil {
			manifests[i].Platform = l.platform(manifests[i])
		}
	}
	chosen, err := chooseFrom(manifests, wanted)
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	for _, d := range manifests {
		if d.Digest != chosen.Digest && (d.Platform == nil || chosen.Platform == nil || platforms.Format(*d.Platform) == platforms.Format(*chosen.Platform)) {
			return ocispec.Descriptor{}, recipes.InputErrorf("two images have this name, %s and %s; remove one of them", chosen.Digest, d.Digest)
		}
	}
	return chosen, nil
}

// platform reads the platform of a manifest from its config; nil means that it is unknown.
func (l *local) platform(d ocispec.Descriptor) *ocispec.Platform {
	b, err := l.readBlob(d)
	if err != nil {
		return nil
	}
	manifest, err := parseManifest(b)
	if err != nil {
		return nil
	}
	var image ocispec.Image
	if b, err = l.readBlob(manifest.Config); err != nil || checkShape(b) != nil || json.Unmarshal(b, &image) != nil || image.OS == "" {
		return nil
	}
	normal := platforms.Normalize(image.Platform)
	return &normal
}
