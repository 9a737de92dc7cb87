package recipes

// Lock names every byte that goes into a node image by digest. It is the result of resolving a Recipe for one platform, holds no
// host paths and no credentials, and, with the recipe, determines the image: compiling needs nothing else.
type Lock struct {
	// APIVersion is always "nodeimg.dev/v1alpha1".
	APIVersion string `json:"apiVersion"`
	// Kind is always "Lock".
	Kind string `json:"kind"`
	// Recipe is the digest of the canonical recipe that was resolved (Recipe.Digest).
	Recipe string `json:"recipe"`
	// Platform is the node's platform, for instance linux/amd64.
	Platform string `json:"platform"`
	// Base is what the root file system starts from.
	Base LockedBase `json:"base"`
	// Packages are the distribution packages installed on top of Base (Base.From image) or already in it (Base.From packages).
	Packages []LockedPackage `json:"packages,omitempty"`
	// Parts are the programs that nodeimg adds to the distribution, one file each, sorted by Path.
	Parts []LockedPart `json:"parts,omitempty"`
	// Files are the recipe's own files and CA certificates, one entry each, sorted by Target.
	Files []LockedFile `json:"files,omitempty"`
	// Images are the images to preload, sorted by Reference.
	Images []LockedImage `json:"images,omitempty"`
	// Modules are the Go modules that parts and images were compiled from (kubernetes.source modules).
	Modules []LockedModule `json:"modules,omitempty"`
}

// LockedBase is the root file system that a build starts from.
type LockedBase struct {
	// Distro, Release and Codename of the distribution, for instance debian, 12, bookworm.
	Distro   string `json:"distro"`
	Release  string `json:"release"`
	Codename string `json:"codename"`
	// Reference is the normalised name of the base image; empty for a bootstrapped one.
	Reference string `json:"reference,omitempty"`
	// Digest is the platform manifest's digest. For a bootstrapped base it is the digest of the manifest that nodeimg packed.
	Digest string `json:"digest"`
}

// LockedPackage is one distribution package.
type LockedPackage struct {
	Name         string `json:"name"`
	Version      string `json:"version"`
	Architecture string `json:"architecture"`
	// URL it was resolved at, without credentials.
	URL string `json:"url"`
	// Size in bytes.
	Size int64 `json:"size"`
	// Digest of the package file (sha256:…).
	Digest string `json:"digest"`
}

// LockedPart is one program.
type LockedPart struct {
	// Name is the project it belongs to: kubernetes, containerd, runc, cni-plugins, flannel-cni, cri-tools.
	Name string `json:"name"`
	// Version of the project with a leading v.
	Version string `json:"version"`
	// Path in the node, absolute.
	Path string `json:"path"`
	// Digest of the file (sha256:…).
	Digest string `json:"digest"`
	// Size in bytes.
	Size int64 `json:"size"`
	// Origin is the URL it was downloaded from or the Go package it was compiled from.
	Origin string `json:"origin"`
}

// LockedFile is one file or symbolic link that the recipe copies into the node.
type LockedFile struct {
	// Target is the absolute path in the node.
	Target string `json:"target"`
	// Mode is the permission in octal, for instance 0644; empty for a symbolic link.
	Mode string `json:"mode,omitempty"`
	// Digest of the content (sha256:…) and its size in bytes; empty and zero for a symbolic link.
	Digest string `json:"digest,omitempty"`
	Size   int64  `json:"size,omitempty"`
	// Link is what a symbolic link points to.
	Link string `json:"link,omitempty"`
}

// LockedImage is one image to preload.
type LockedImage struct {
	// Reference is the full normalised name under which the node knows the image, for instance docker.io/library/nginx:1.29.
	Reference string `json:"reference"`
	// MediaType, Digest and Size of what the reference names: an index or a manifest.
	MediaType string `json:"mediaType"`
	Digest    string `json:"digest"`
	Size      int64  `json:"size"`
	// Manifest is the digest of the node platform's manifest; equal to Digest unless that is an index.
	Manifest string `json:"manifest"`
	// Platform of Manifest, for instance linux/amd64.
	Platform string `json:"platform"`
	// Bytes is the sum of the sizes of manifest, config and layers as transferred.
	Bytes int64 `json:"bytes"`
	// Role says what needs the image.
	Role ImageRole `json:"role"`
	// Source is where the image comes from. Paths are relative to the recipe.
	Source ImageSource `json:"source"`
}

// ImageRole says what needs a preloaded image.
type ImageRole string

// The roles of preloaded images. Sandbox, Etcd and DNS are control-plane images that configuration files have to name.
const (
	RoleControlPlane ImageRole = "control-plane"
	RoleEtcd         ImageRole = "etcd"
	RoleDNS          ImageRole = "dns"
	RoleSandbox      ImageRole = "sandbox"
	RoleCNI          ImageRole = "cni"
	RoleStorage      ImageRole = "storage"
	RoleUser         ImageRole = "user"
)

// LockedModule is one Go module that was compiled.
type LockedModule struct {
	// Path and Version of the main module that was required, for instance k8s.io/kubernetes v1.34.10.
	Path    string `json:"path"`
	Version string `json:"version"`
	// Sum is the h1: hash that the checksum database vouched for.
	Sum string `json:"sum"`
	// Dependencies is the sha256 of the whole go.sum of the build.
	Dependencies string `json:"dependencies"`
}

// Image returns the first locked image with the role, and whether there is one.
func (l *Lock) Image(role ImageRole) (LockedImage, bool) {
	for _, image := range l.Images {
		if image.Role == role {
			return image, true
		}
	}
	return LockedImage{}, false
}
