package preload

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/platforms"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/nodeimg/nodeimg/recipes"
)

const (
	// maxImageLayers is how many layers the kernel's overlay file system stacks (fs/overlayfs, OVL_MAX_STACK).
	maxImageLayers = 500
	// maxBlob is the largest layer that is believed, in bytes, so that sums of sizes cannot overflow.
	maxBlob = 1 << 40
	// emptyBlob is the digest of no bytes.
	emptyBlob = digest.Digest("sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855")
)

func tooManyLayers(n int) error {
	return recipes.InputErrorf("it has %d layers; the kernel's overlay file system stacks at most %d", n, maxImageLayers)
}

// layerTypes are the layers that the node's containerd unpacks.
var layerTypes = []string{
	ocispec.MediaTypeImageLayer, ocispec.MediaTypeImageLayerGzip, ocispec.MediaTypeImageLayerZstd,
	// The specification has deprecated these; images with them are still around.
	"application/vnd.oci.image.layer.nondistributable.v1.tar", "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip",
	"application/vnd.oci.image.layer.nondistributable.v1.tar+zstd",
	images.MediaTypeDockerSchema2Layer, images.MediaTypeDockerSchema2LayerGzip, images.MediaTypeDockerSchema2LayerZstd,
	images.MediaTypeDockerSchema2LayerForeign, images.MediaTypeDockerSchema2LayerForeignGzip,
}

// parseManifest reads an image manifest, of OCI or Docker schema 2, and checks that all descriptors in it can be used.
func parseManifest(b []byte) (ocispec.Manifest, error) {
	var manifest struct {
		ocispec.Manifest
		Manifests []json.RawMessage `json:"manifests"`
		FSLayers  []json.RawMessage `json:"fsLayers"`
	}
	if err := decodeJSON(b, &manifest); err != nil {
		return ocispec.Manifest{}, err
	}
	// containerd refuses these too, because programs disagree about what they are (CVE-2021-41190).
	switch {
	case len(manifest.FSLayers) > 0:
		return ocispec.Manifest{}, errors.New("it is of Docker's schema 1, which containerd has given up")
	case len(manifest.Manifests) > 0 || images.IsIndexType(manifest.MediaType):
		return ocispec.Manifest{}, errors.New("it is an index too")
	case len(manifest.Layers) > maxImageLayers:
		return ocispec.Manifest{}, tooManyLayers(len(manifest.Layers))
	}
	sizes := map[digest.Digest]int64{}
	for _, d := range append([]ocispec.Descriptor{manifest.Config}, manifest.Layers...) {
		if err := checkDescriptor(d); err != nil {
			return ocispec.Manifest{}, err
		}
		if d.Size > maxBlob || d.Size == 0 && d.Digest != emptyBlob {
			return ocispec.Manifest{}, fmt.Errorf("%s has the size %d", d.Digest, d.Size)
		}
		if before, again := sizes[d.Digest]; again && before != d.Size {
			return ocispec.Manifest{}, fmt.Errorf("%s has two sizes, %d and %d", d.Digest, before, d.Size)
		}
		sizes[d.Digest] = d.Size
	}
	return manifest.Manifest, nil
}

func checkDescriptor(d ocispec.Descriptor) error {
	if err := d.Digest.Validate(); err != nil || d.Digest.Algorithm() != digest.SHA256 {
		return fmt.Errorf("%q is not a sha256 digest", shorten(d.Digest.String()))
	}
	if d.Size < 0 {
		return fmt.Errorf("%s has the size %d", d.Digest, d.Size)
	}
	return nil
}

// checkManifest says whether a manifest is that of an image for containers.
func checkManifest(manifest ocispec.Manifest) error {
	if !images.IsConfigType(manifest.Config.MediaType) {
		return fmt.Errorf("its config has the media type %q, which is no container image's", shorten(manifest.Config.MediaType))
	}
	for i, d := range manifest.Layers {
		if !slices.Contains(layerTypes, d.MediaType) {
			return fmt.Errorf("layer %d, %s, has the media type %q, which containerd cannot unpack", i+1, d.Digest, shorten(d.MediaType))
		}
	}
	return nil
}

// checkConfig says whether an image with the given config and manifest runs on the platform. Strict means that the config must name its
// platform.
func checkConfig(b []byte, manifest ocispec.Manifest, wanted ocispec.Platform, strict bool) error {
	var config ocispec.Image
	if err := decodeJSON(b, &config); err != nil {
		return recipes.InputErrorf("its config %s: %v", manifest.Config.Digest, err)
	}
	if err := checkDiffIDs(config, manifest.Layers); err != nil {
		return recipes.InputErrorf("its config %s %v", manifest.Config.Digest, err)
	}
	if config.OS == "" && config.Architecture == "" {
		if strict {
			return recipes.InputErrorf("neither its index nor its config says what platform it is for")
		}
		return nil
	}
	if has := platforms.Normalize(config.Platform); !platforms.Only(wanted).Match(has) {
		return recipes.InputErrorf("the image is for %s, the node is %s", shorten(platforms.Format(has)), platforms.Format(wanted))
	}
	return nil
}

// checkDiffIDs compares the layers that a config and a manifest name.
func checkDiffIDs(config ocispec.Image, layers []ocispec.Descriptor) error {
	if len(config.RootFS.DiffIDs) != len(layers) {
		return fmt.Errorf("names %d layers (rootfs.diff_ids), its manifest %d", len(config.RootFS.DiffIDs), len(layers))
	}
	for i, id := range config.RootFS.DiffIDs {
		if err := checkDescriptor(ocispec.Descriptor{Digest: id}); err != nil {
			return fmt.Errorf("is wrong about layer %d: %w", i+1, err)
		}
	}
	return nil
}
