package config

// Group, version and kind of the only description of a cluster that there is so far.
const (
	APIVersion = "nodeimg.dev/v1alpha1"
	Kind       = "Cluster"
)

// Cluster describes one cluster (apiVersion nodeimg.dev/v1alpha1, kind Cluster).
type Cluster struct {
	// APIVersion is always "nodeimg.dev/v1alpha1".
	APIVersion string `json:"apiVersion"`
	// Kind is always "Cluster".
	Kind string `json:"kind"`
	// Metadata names the cluster.
	Metadata Metadata `json:"metadata"`
	// Spec says what the cluster is made of.
	Spec Spec `json:"spec,omitzero"`
}

// Metadata names the cluster.
type Metadata struct {
	// Name is the cluster's name: a DNS label.
	Name string `json:"name"`
}

// Spec says what the cluster is made of.
type Spec struct {
	// Image is the node image of the nodes that name none.
	Image string `json:"image,omitempty"`
	// Runtime is the Engine's OCI runtime for the nodes; empty means sysbox-runc, or the Engine's default with Privileged.
	Runtime string `json:"runtime,omitempty"`
	// Privileged gives the nodes every privilege on the host.
	Privileged bool `json:"privileged,omitempty"`
	// ControlPlanes are the nodes with an API server and etcd; one unless given.
	ControlPlanes Nodes `json:"controlPlanes,omitzero"`
	// Workers are the other nodes; none unless given. Without any, the control planes take ordinary pods too.
	Workers Nodes `json:"workers,omitzero"`
}

// Nodes are the nodes of one role.
type Nodes struct {
	// Count is how many there are.
	Count int `json:"count,omitempty"`
	// Image is their node image; empty means Spec.Image.
	Image string `json:"image,omitempty"`
}

// Role is what a node is in its cluster.
type Role string

// The roles.
const (
	RoleControlPlane Role = "control-plane"
	RoleWorker       Role = "worker"
)

// Member is one node of a cluster.
type Member struct {
	Nodes
	Role Role
	// Number counts from 1 within the role.
	Number int
}

// Members are all nodes of the cluster, control planes first. Their images are set.
func (s Spec) Members() []Member {
	var members []Member
	add := func(role Role, nodes Nodes) {
		if nodes.Image == "" {
			nodes.Image = s.Image
		}
		for number := range nodes.Count {
			members = append(members, Member{Nodes: nodes, Role: role, Number: number + 1})
		}
	}
	add(RoleControlPlane, s.ControlPlanes)
	add(RoleWorker, s.Workers)
	return members
}
