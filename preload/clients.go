package preload

import (
	"slices"

	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"

	"github.com/nodeimg/nodeimg/recipes"
)

// client is who keeps images in containerd, and how.
type client struct {
	// namespace of containerd that its records are in.
	namespace string
	// labels of an image's record.
	labels map[string]string
	// names of an image's records. One that ends in the digest of the image's manifest names that, every other what the reference names.
	names func(recipes.LockedImage, imageParts) ([]string, error)
}

// clients are those of the runtimes that run containers through containerd.
var clients = map[recipes.CRIName]client{
	// The CRI plugin's namespace is in containerd internal/cri/constants. The labels mark an image as its own and keep the kubelet from
	// collecting it (internal/cri/labels).
	recipes.CRIContainerd: {
		namespace: "k8s.io",
		labels:    map[string]string{"io.cri-containerd.image": "managed", "io.cri-containerd.pinned": "pinned"},
		names:     pluginNames,
	},
	// Docker's namespace is the default of its containerd-namespace (github.com/docker/docker/daemon/config). A pull gives images no
	// labels (daemon/containerd/image_pull.go), and Docker has none that would keep them.
	recipes.CRIDocker: {namespace: "moby", names: dockerNames},
}

// pluginNames are the names that containerd's CRI plugin gives an image that it pulls: the reference, name@digest, and the config's
// digest, which is the image id (containerd internal/cri/server/images/image_pull.go, createOrUpdateImageReference). An image of an index
// gets one more, name@digest of its own manifest, because tools that pin images for one platform write that into manifests of pods.
func pluginNames(image recipes.LockedImage, parts imageParts) ([]string, error) {
	names := []string{image.Reference, parts.config.Digest.String()}
	for _, d := range []digest.Digest{parts.target.Digest, parts.manifest.Digest} {
		digested, err := withDigest(image, d)
		if err != nil {
			return nil, err
		}
		if !slices.Contains(names, digested) {
			names = append(names, digested)
		}
	}
	return names, nil
}

// dockerNames are the names that Docker's image store has for an image after a pull by its reference, and for one of an index after a
// second pull, by the digest of its own manifest. That is enough: for a name with any digest Docker takes a record of the same repository
// whose target has that digest (github.com/docker/docker/daemon/containerd/image.go, resolveImage), and an image's id is its target's
// digest, so that a record for the config, as the CRI plugin makes it, would only be listed as one more image with an odd name.
func dockerNames(image recipes.LockedImage, parts imageParts) ([]string, error) {
	names := []string{image.Reference}
	if parts.manifest.Digest == parts.target.Digest {
		return names, nil
	}
	digested, err := withDigest(image, parts.manifest.Digest)
	return append(names, digested), err
}

// withDigest is the image's name without its tag, with d.
func withDigest(image recipes.LockedImage, d digest.Digest) (string, error) {
	named, _, err := normalize(image.Reference)
	if err != nil {
		return "", err
	}
	digested, err := reference.WithDigest(reference.TrimNamed(named), d)
	if err != nil {
		return "", err
	}
	return digested.String(), nil
}
