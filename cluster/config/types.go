package config

// Group, version and kind of the only description of a cluster that there is so far.
const (
	APIVersion = "nodeimg.dev/v1alpha1"
	Kind       = "Cluster"
)

// Cluster describes one cluster (apiVersion nodeimg.dev/v1alpha1, kind Cluster).
type Cluster struct {
	// APIVersion is always "nodeimg.dev/v1alpha1".
	APIVersion string `json:"apiVersion" jsonschema:"enum=nodeimg.dev/v1alpha1"`
	// Kind is always "Cluster".
	Kind string `json:"kind" jsonschema:"enum=Cluster"`
	// Metadata names the cluster.
	Metadata Metadata `json:"metadata,omitzero"`
	// Spec says what the cluster is made of.
	Spec Spec `json:"spec,omitzero"`
}

// Metadata names the cluster.
type Metadata struct {
	// Name is the cluster's name; the default is nodeimg.
	Name string `json:"name,omitempty" jsonschema:"minLength=1,maxLength=40,pattern=^[a-z0-9]([-a-z0-9]*[a-z0-9])?$,example=nodeimg"`
}

// Spec says what the cluster is made of.
type Spec struct {
	// Image is the node image of the nodes that name none: an image of the Engine, or a path, relative to this file, of an OCI layout, of an
	// archive or of a recipe.
	Image string `json:"image,omitempty" jsonschema:"example=k8s-node:v1.34.10,example=./recipe.yaml"`
	// Runtime is the Engine's OCI runtime for the nodes; the default is sysbox-runc, or the Engine's own with privileged.
	Runtime string `json:"runtime,omitempty" jsonschema:"example=sysbox-runc"`
	// Privileged gives the nodes every privilege on the host.
	Privileged bool `json:"privileged,omitempty"`
	// ControlPlanes are the nodes with an API server and etcd; the default is one.
	ControlPlanes Groups `json:"controlPlanes,omitempty"`
	// Workers are the other nodes; the default is none. Without any, the control planes take ordinary pods too.
	Workers Groups `json:"workers,omitempty"`
	// Networking is about addresses, the pod network and how the API server is reached.
	Networking Networking `json:"networking,omitzero"`
	// Mounts are files and folders of the host in every node.
	Mounts []Mount `json:"mounts,omitempty"`
	// Env are environment variables of every node's container, which its entrypoint, systemd itself, kubeadm and commands of docker exec
	// see. Units in the node, such as the container runtime and the kubelet, get the proxy variables alone: HTTP_PROXY, HTTPS_PROXY and
	// NO_PROXY, also in lower case.
	Env map[string]string `json:"env,omitempty"`
	// Memory is what each node may use at most, as docker run has it, for instance 2g.
	Memory string `json:"memory,omitempty" jsonschema:"example=2g"`
	// CPUs is how many processors each node may use at most, for instance 1.5.
	CPUs float64 `json:"cpus,omitempty" jsonschema:"minimum=0.01"`
	// FeatureGates switches gates of Kubernetes on or off, in all of its components.
	FeatureGates map[string]bool `json:"featureGates,omitempty"`
	// RuntimeConfig switches groups of the API on or off, for instance api/alpha: "true" (kube-apiserver --runtime-config).
	RuntimeConfig map[string]string `json:"runtimeConfig,omitempty"`
	// KubeadmPatches are YAML texts, each merged into the kubeadm document of its kind: ClusterConfiguration, InitConfiguration,
	// JoinConfiguration, KubeletConfiguration or KubeProxyConfiguration. Mappings are merged, null removes a field, lists are replaced.
	KubeadmPatches []string `json:"kubeadmPatches,omitempty"`
	// KubeadmPatchesJSON6902 are patches of RFC 6902 for such documents; they come after the others.
	KubeadmPatchesJSON6902 []PatchJSON6902 `json:"kubeadmPatchesJSON6902,omitempty"`
	// RegistryMirrors are tried by the nodes before a registry, in order. The key is the registry's host, for instance docker.io; the values
	// are http or https URLs without credentials, as the nodes reach them.
	RegistryMirrors map[string][]string `json:"registryMirrors,omitempty"`
	// CACertificates are PEM files on the host, relative to this file, that the nodes trust.
	CACertificates []string `json:"caCertificates,omitempty"`
}

// Groups are the nodes of one role.
type Groups []Group

// Count is how many nodes there are.
func (g Groups) Count() int {
	count := 0
	for _, group := range g {
		count += group.Count
	}
	return count
}

// Group describes equal nodes.
type Group struct {
	// Count is how many there are; the default is 1.
	Count int `json:"count,omitempty" jsonschema:"minimum=1,default=1"`
	// Image is their node image; the default is spec.image.
	Image string `json:"image,omitempty"`
	// Labels are those of the Kubernetes nodes.
	Labels map[string]string `json:"labels,omitempty"`
	// Taints keep pods off the nodes. Those of control planes come beside their own.
	Taints []Taint `json:"taints,omitempty"`
	// Mounts are files and folders of the host, beside spec.mounts.
	Mounts []Mount `json:"mounts,omitempty"`
	// Ports are ports of the node that can be reached on the host. A group of several nodes cannot have one with a hostPort.
	Ports []Port `json:"ports,omitempty"`
	// Env are environment variables, beside spec.env.
	Env map[string]string `json:"env,omitempty"`
	// Memory is what each node may use at most; the default is spec.memory.
	Memory string `json:"memory,omitempty" jsonschema:"example=2g"`
	// CPUs is how many processors each node may use at most; the default is spec.cpus.
	CPUs float64 `json:"cpus,omitempty" jsonschema:"minimum=0.01"`
	// KubeadmPatches come after spec.kubeadmPatches. Those of the KubeletConfiguration are for the kubelets of this group only.
	KubeadmPatches []string `json:"kubeadmPatches,omitempty"`
	// KubeadmPatchesJSON6902 come after spec.kubeadmPatchesJSON6902, and are for the kubelets of this group too.
	KubeadmPatchesJSON6902 []PatchJSON6902 `json:"kubeadmPatchesJSON6902,omitempty"`
}

// Taint keeps pods off a node that do not tolerate it.
type Taint struct {
	// Key is the taint's name.
	Key string `json:"key" jsonschema:"example=dedicated"`
	// Value is compared by tolerations.
	Value string `json:"value,omitempty"`
	// Effect is what happens to pods that do not tolerate the taint.
	Effect string `json:"effect" jsonschema:"enum=NoSchedule,enum=PreferNoSchedule,enum=NoExecute"`
}

// Mount is a file or folder of the host in a node.
type Mount struct {
	// HostPath is on the Engine's host, relative to this file.
	HostPath string `json:"hostPath"`
	// ContainerPath is the absolute path in the node.
	ContainerPath string `json:"containerPath" jsonschema:"pattern=^/.+,example=/data"`
	// ReadOnly keeps the node from writing.
	ReadOnly bool `json:"readOnly,omitempty"`
	// Propagation says whether later mounts below it are seen by the other side; the default is None.
	Propagation string `json:"propagation,omitempty" jsonschema:"enum=None,enum=HostToContainer,enum=Bidirectional"`
}

// Port is a port of a node on the host.
type Port struct {
	// ListenAddress is the host's address; the default is 127.0.0.1, or ::1 with ipFamily ipv6.
	ListenAddress string `json:"listenAddress,omitempty" jsonschema:"example=0.0.0.0"`
	// HostPort is the port on the host; the default is one that the Engine chooses, anew at each start.
	HostPort int `json:"hostPort,omitempty" jsonschema:"minimum=0,maximum=65535"`
	// ContainerPort is the port in the node, for instance that of a service of type NodePort.
	ContainerPort int `json:"containerPort" jsonschema:"minimum=1,maximum=65535"`
	// Protocol is the transport; the default is TCP.
	Protocol string `json:"protocol,omitempty" jsonschema:"enum=TCP,enum=UDP"`
}

// Networking is about addresses, the pod network and how the API server is reached.
type Networking struct {
	// Network is a network of the Engine that the nodes join and that stays when the cluster goes; the default is one of the cluster's own.
	Network string `json:"network,omitempty"`
	// IPFamily is that of pods and services, and with ipv6 of nodes; the default is ipv4.
	IPFamily string `json:"ipFamily,omitempty" jsonschema:"enum=ipv4,enum=ipv6,enum=dual,default=ipv4"`
	// PodSubnet is what pods get their addresses from; the default is the image's, or with IPv6 fd00:10:244::/56. Of a dual cluster it is one
	// of each family, with a comma between them. Each node gets a /24 of it, and a /64 of IPv6.
	PodSubnet string `json:"podSubnet,omitempty" jsonschema:"example=10.244.0.0/16"`
	// ServiceSubnet is what services get their addresses from; the default is kubeadm's, 10.96.0.0/12, or with IPv6 fd00:10:96::/112.
	ServiceSubnet string `json:"serviceSubnet,omitempty" jsonschema:"example=10.96.0.0/12"`
	// CNI is the pod network; the default is bridge, or none when the image has none.
	CNI string `json:"cni,omitempty" jsonschema:"enum=bridge,enum=flannel,enum=none"`
	// KubeProxyMode is how services are made; the default is iptables.
	KubeProxyMode string `json:"kubeProxyMode,omitempty" jsonschema:"enum=iptables,enum=nftables,enum=ipvs,default=iptables"`
	// DNSDomain is the domain of services; the default is cluster.local.
	DNSDomain string `json:"dnsDomain,omitempty" jsonschema:"example=cluster.local"`
	// APIAddress is the host's address of the API server; the default is 127.0.0.1.
	APIAddress string `json:"apiAddress,omitempty" jsonschema:"example=127.0.0.1"`
	// APIPort is the host's port of the API server; the default is one that is free.
	APIPort int `json:"apiPort,omitempty" jsonschema:"minimum=0,maximum=65535"`
}

// PatchJSON6902 is a patch of RFC 6902 for the kubeadm documents of a kind.
type PatchJSON6902 struct {
	// Group is that of the document's apiVersion, for instance kubeadm.k8s.io; empty means any.
	Group string `json:"group,omitempty" jsonschema:"example=kubeadm.k8s.io"`
	// Version is that of the document's apiVersion, for instance v1beta4; empty means any.
	Version string `json:"version,omitempty" jsonschema:"example=v1beta4"`
	// Kind is the document's.
	Kind string `json:"kind" jsonschema:"enum=ClusterConfiguration,enum=InitConfiguration,enum=JoinConfiguration,enum=KubeletConfiguration,enum=KubeProxyConfiguration"`
	// Patch is the list of operations, as YAML or JSON.
	Patch string `json:"patch"`
}

// Role is what a node is in its cluster.
type Role string

// The roles.
const (
	RoleControlPlane Role = "control-plane"
	RoleWorker       Role = "worker"
)
