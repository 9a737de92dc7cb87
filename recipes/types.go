package recipes

// Group, version and kind of the only recipe schema there is so far.
const (
	APIVersion = "nodeimg.dev/v1alpha1"
	Kind       = "NodeImage"
)

// Recipe describes one Kubernetes node image (apiVersion nodeimg.dev/v1alpha1, kind NodeImage).
type Recipe struct {
	// APIVersion is always "nodeimg.dev/v1alpha1".
	APIVersion string `json:"apiVersion" jsonschema:"enum=nodeimg.dev/v1alpha1"`
	// Kind is always "NodeImage".
	Kind string `json:"kind" jsonschema:"enum=NodeImage"`
	// Metadata names the image.
	Metadata Metadata `json:"metadata"`
	// Spec says what goes into the image.
	Spec Spec `json:"spec"`
}

// Metadata names the image.
type Metadata struct {
	// Name is the image's short name: a DNS label, also the default output folder's name (out/NAME).
	Name string `json:"name" jsonschema:"minLength=1,maxLength=63,pattern=^[a-z0-9]([-a-z0-9]*[a-z0-9])?$,example=k8s-node"`
}

// Spec says what goes into the image.
type Spec struct {
	// Kubernetes selects the Kubernetes release and where its programs come from.
	Kubernetes Kubernetes `json:"kubernetes"`
	// Base selects the Linux distribution of the node.
	Base Base `json:"base,omitzero"`
	// CRI selects the container runtime of the node.
	CRI CRI `json:"cri,omitzero"`
	// CNI selects the pod network whose manifest and images are baked in.
	CNI CNI `json:"cni,omitzero"`
	// Storage selects the default StorageClass whose manifest and image are baked in.
	Storage Storage `json:"storage,omitzero"`
	// Preload lists the container images that lie ready in the node.
	Preload Preload `json:"preload,omitzero"`
	// Packages are extra distribution packages by name.
	Packages []string `json:"packages,omitempty" jsonschema:"uniqueItems=true,pattern=^[a-z0-9][a-z0-9+.-]+$"`
	// Files are copied from the host into the node image.
	Files []File `json:"files,omitempty"`
	// Run are extra shell lines, run as root and without network after everything else but the preloaded images is in place.
	Run []string `json:"run,omitempty"`
	// Mirrors redirects a host (registry, release server, package mirror) to a URL prefix.
	// The key is the host to replace, for instance registry.k8s.io, dl.k8s.io or github.com, or a package archive, debian,
	// debian-security or ubuntu; the value is the http or https URL that takes its place, without credentials, for instance
	// https://mirror.example/k8s.
	Mirrors map[string]string `json:"mirrors,omitempty"`
	// CACertificates are PEM files on the host, relative to the recipe, that the build and the node trust.
	CACertificates []string `json:"caCertificates,omitempty"`
	// Platforms are the platforms to build, as os/arch; the default is the host's own linux platform.
	Platforms []string `json:"platforms,omitempty" jsonschema:"uniqueItems=true,enum=linux/amd64,enum=linux/arm64"`
}

// Kubernetes selects the Kubernetes release and where its programs come from.
type Kubernetes struct {
	// Version is a full semantic version with a leading v, for instance v1.34.10.
	Version string `json:"version" jsonschema:"pattern=^v[0-9]+[.][0-9]+[.][0-9]+(-[0-9A-Za-z.-]+)?$,example=v1.34.10"`
	// Source is where the programs come from; the default is release.
	Source KubernetesSource `json:"source,omitempty" jsonschema:"enum=release,enum=modules,default=release"`
}

// KubernetesSource says where kubeadm, kubelet, kubectl and the control-plane images come from.
type KubernetesSource string

const (
	// SourceRelease takes the programs from the release server and the images from the registry.
	SourceRelease KubernetesSource = "release"
	// SourceModules compiles the programs from the Go module proxy and packs the images itself.
	SourceModules KubernetesSource = "modules"
)

// Base selects the Linux distribution of the node.
type Base struct {
	// Distro is the distribution: debian or ubuntu; the default is debian.
	Distro string `json:"distro,omitempty" jsonschema:"enum=debian,enum=ubuntu,default=debian"`
	// Release is the distribution's release number in quotes, for instance "12" or "24.04".
	Release string `json:"release,omitempty" jsonschema:"example=12,example=24.04"`
	// From says whether the distribution comes as an image or is bootstrapped from its packages; the default is image.
	From BaseFrom `json:"from,omitempty" jsonschema:"enum=image,enum=packages,default=image"`
	// Image is the base image when From is image; the default is the distribution's official one.
	Image string `json:"image,omitempty" jsonschema:"example=docker.io/library/debian:12"`
}

// BaseFrom says how the distribution is obtained.
type BaseFrom string

const (
	// FromImage starts from a container image of the distribution.
	FromImage BaseFrom = "image"
	// FromPackages bootstraps the distribution from its signed packages.
	FromPackages BaseFrom = "packages"
)

// CRI selects the container runtime of the node.
type CRI struct {
	// Name is containerd, docker, which is the Docker Engine with cri-dockerd, or crio, which is CRI-O; the default is containerd.
	Name CRIName `json:"name,omitempty" jsonschema:"enum=containerd,enum=docker,enum=crio,default=containerd"`
	// Version is the version of containerd, the Docker Engine or CRI-O without a leading v, for instance 2.4.2; the default is the newest one
	// that nodeimg was tested with: 2.4.2, 28.5.2 (28.0.4 with kubernetes.source release) or 1.36.3.
	Version string `json:"version,omitempty" jsonschema:"pattern=^[0-9]+[.][0-9]+[.][0-9]+(-[0-9A-Za-z.-]+)?$,example=2.4.2"`
}

// CRIName is a container runtime.
type CRIName string

// The container runtimes that a recipe can name.
const (
	CRIContainerd CRIName = "containerd"
	CRIDocker     CRIName = "docker"
	CRICRIO       CRIName = "crio"
)

// UnpackedOnly says that the runtime runs no preloaded image that lies packed in the node image: CRI-O unpacks only what it pulls.
func (n CRIName) UnpackedOnly() bool { return n == CRICRIO }

// CNI selects the pod network.
type CNI struct {
	// Name is flannel; bridge, which is the nodes' own network without vxlan, manifest or daemon; kindnet, calico or none. The default is
	// flannel.
	Name CNIName `json:"name,omitempty" jsonschema:"enum=flannel,enum=bridge,enum=kindnet,enum=calico,enum=none,default=flannel"`
}

// CNIName is a pod network.
type CNIName string

// The pod networks that a recipe can name.
const (
	CNIFlannel CNIName = "flannel"
	CNIBridge  CNIName = "bridge"
	CNIKindnet CNIName = "kindnet"
	CNICalico  CNIName = "calico"
	CNINone    CNIName = "none"
)

// Storage selects the default StorageClass.
type Storage struct {
	// Name is local-path, whose volumes are folders of the node that runs the pod, or none; the default is local-path.
	Name StorageName `json:"name,omitempty" jsonschema:"enum=local-path,enum=none,default=local-path"`
}

// StorageName is what provides volumes.
type StorageName string

// The providers of volumes that a recipe can name.
const (
	StorageLocalPath StorageName = "local-path"
	StorageNone      StorageName = "none"
)

// Preload lists the container images that lie ready in the node.
type Preload struct {
	// ControlPlane preloads what kubeadm, the pod network and the StorageClass need; the default is true. Without it their manifests are left
	// out too; the pod sandbox's image is always preloaded.
	ControlPlane *bool `json:"controlPlane,omitempty" jsonschema:"default=true"`
	// Images are further images.
	Images []ImageSource `json:"images,omitempty"`
	// Engine is how images get into the node image: direct, where nodeimg writes the layers itself; inner, where the node's own runtime pulls
	// in a build step; or auto, the default, which is direct.
	Engine Engine `json:"engine,omitempty" jsonschema:"enum=auto,enum=inner,enum=direct,default=auto"`
	// Layout is how images lie in the node image: unpacked, so that containers start without unpacking anything, or packed, as in a
	// registry. The default is unpacked for engine direct and packed for engine inner.
	Layout Layout `json:"layout,omitempty" jsonschema:"enum=unpacked,enum=packed"`
	// MaxLayers is the largest number of layers that the node image may have; the default is 99. Small images share layers when there
	// are more.
	MaxLayers int `json:"maxLayers,omitempty" jsonschema:"minimum=20,maximum=120,default=99"`
}

// Layout is how images lie in the node image.
type Layout string

// The layouts.
const (
	LayoutUnpacked Layout = "unpacked"
	LayoutPacked   Layout = "packed"
)

// Engine is how images get into the node image.
type Engine string

const (
	// EngineAuto takes direct, and inner where direct does not serve the runtime.
	EngineAuto Engine = "auto"
	// EngineInner lets the node's own runtime pull in a build step.
	EngineInner Engine = "inner"
	// EngineDirect writes the layers without running anything.
	EngineDirect Engine = "direct"
)

// ImageSource is one image to preload, or several. Exactly one of registry, archive, docker and layout is set. In YAML a plain string is
// short for {registry: STRING}.
type ImageSource struct {
	// Registry is a reference to pull from a registry, with tag or digest, for instance docker.io/library/nginx:1.29.
	Registry string `json:"registry,omitempty"`
	// Archive is a docker-archive or OCI archive (tar, compressed or not) on the host, relative to the recipe, or a pattern that matches
	// several, for instance images/*.tar.
	Archive string `json:"archive,omitempty"`
	// Docker is an image in the local Docker Engine.
	Docker string `json:"docker,omitempty"`
	// Layout is an OCI image layout directory on the host, relative to the recipe.
	Layout string `json:"layout,omitempty"`
	// Name chooses one image of an archive or layout, and is the name of an image there that has none. Without it all images with
	// names are taken.
	Name string `json:"name,omitempty"`
}

// File is copied from the host into the node image.
type File struct {
	// Source is a file or directory on the host, relative to the recipe.
	Source string `json:"source"`
	// Target is the absolute path in the node.
	Target string `json:"target" jsonschema:"pattern=^/.+,example=/etc/motd"`
	// Mode is the file's permission in quoted octal, for instance "0755"; the default keeps the source's.
	Mode string `json:"mode,omitempty" jsonschema:"pattern=^[0-7]?[0-7][0-7][0-7]$,example=0755"`
}
