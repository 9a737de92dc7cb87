package preload

import (
	"cmp"
	"encoding/json"
	"fmt"
	"slices"

	"github.com/containerd/containerd/v2/core/images"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/nodeimg/nodeimg/recipes"
)

// LayoutFile is the content of the store's oci-layout file.
const LayoutFile = `{"imageLayoutVersion":"` + ocispec.ImageLayoutVersion + `"}`

// Index returns the store's index.json: an OCI image layout index with a descriptor per image, sorted by reference, that carries the full
// reference in org.opencontainers.image.ref.name and io.containerd.image.name. The same images give the same bytes.
func Index(locked []recipes.LockedImage) ([]byte, error) {
	index := ocispec.Index{
		Versioned: specs.Versioned{SchemaVersion: 2},
		MediaType: ocispec.MediaTypeImageIndex,
		Manifests: []ocispec.Descriptor{},
	}
	for _, image := range sorted(locked) {
		index.Manifests = append(index.Manifests, ocispec.Descriptor{
			MediaType: image.MediaType, Digest: digest.Digest(image.Digest), Size: image.Size,
			Annotations: map[string]string{
				ocispec.AnnotationRefName:  image.Reference,
				images.AnnotationImageName: image.Reference,
			},
		})
	}
	b, err := json.MarshalIndent(index, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("writing the store's index: %w", err)
	}
	return append(b, '\n'), nil
}

func sorted(locked []recipes.LockedImage) []recipes.LockedImage {
	return slices.SortedFunc(slices.Values(locked), func(a, b recipes.LockedImage) int {
		return cmp.Or(cmp.Compare(a.Reference, b.Reference), cmp.Compare(a.Digest, b.Digest))
	})
}
