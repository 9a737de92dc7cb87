package recipes

// Labels on a node image's config, so that inspecting it needs nothing but the config.
const (
	// LabelRecipe is the image's content id: the digest of canonical recipe and lock (sha256:…).
	LabelRecipe = "dev.nodeimg.recipe"
	// LabelName is the recipe's metadata.name.
	LabelName = "dev.nodeimg.name"
	// LabelKubernetes is the Kubernetes version, for instance v1.34.10.
	LabelKubernetes = "dev.nodeimg.kubernetes"
	// LabelDistro is distribution and release, for instance "debian 12".
	LabelDistro = "dev.nodeimg.distro"
	// LabelCRI is runtime and version, for instance "containerd 2.4.2".
	LabelCRI = "dev.nodeimg.cri"
	// LabelCNI is the pod network, for instance flannel.
	LabelCNI = "dev.nodeimg.cni"
	// LabelPreloaded is the JSON list of Preloaded.
	LabelPreloaded = "dev.nodeimg.preloaded"
	// LabelChanged is the JSON list of Changed, sorted by reference: how the preloaded images differ from those that the image had when it
	// was built from what LabelRecipe names. It is missing where they do not.
	LabelChanged = "dev.nodeimg.changed"
)

// Changed is one entry of LabelChanged: an image that was added, replaced or removed after the build.
type Changed struct {
	// Reference is the full name under which the node knows the image.
	Reference string `json:"reference"`
	// Before is the digest that the reference had in the image as built; empty where the image was added.
	Before string `json:"before,omitempty"`
	// After is the digest that the reference has now; empty where the image was removed.
	After string `json:"after,omitempty"`
}

// Preloaded is one entry of LabelPreloaded and of "nodeimg inspect --json".
type Preloaded struct {
	// Reference is the full name under which the node knows the image.
	Reference string `json:"reference"`
	// Digest is what the reference names: an index or a manifest.
	Digest string `json:"digest"`
	// Size is the sum of manifest, config and layers as transferred, in bytes.
	Size int64 `json:"size"`
	// Platform of the image, for instance linux/amd64.
	Platform string `json:"platform"`
}

// StorePath is the OCI image layout that holds the preloaded images in the node (design §4: outside /var, because launchers put
// volumes there), and DatabasesPath is the folder beside it with the two databases that the boot unit copies.
const (
	StorePath     = "/usr/lib/nodeimg/store"
	DatabasesPath = "/usr/lib/nodeimg/databases"
	// SnapshotsPath has a folder CHAINID/fs with the unpacked tree of each snapshot, CHAINID without "sha256:".
	SnapshotsPath = "/usr/lib/nodeimg/snapshots"
	// AdditionalStorePath is an additional image store of containers/storage over the same trees, for CRI-O.
	AdditionalStorePath = "/usr/lib/nodeimg/containers"
	// ContentsPath says which layer holds what (preload.Contents).
	ContentsPath = "/usr/lib/nodeimg/contents.json"
	// CertificatesPath is where update-ca-certificates, which the build runs, finds the recipe's authorities (update-ca-certificates(8)).
	CertificatesPath = "/usr/local/share/ca-certificates/nodeimg"
)
