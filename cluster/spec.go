package cluster

import (
	"github.com/nodeimg/nodeimg/cluster/config"
	"github.com/nodeimg/nodeimg/internal/dockerengine"
)

// nodeSpec is the container of a node.
func nodeSpec(c config.Cluster, n config.Member, runtime string) dockerengine.ContainerSpec {
	cluster := c.Metadata.Name
	name := nodeName(cluster, n.Role, n.Number)
	return dockerengine.ContainerSpec{
		Name: name, Hostname: name, Network: networkName(cluster),
		Image: n.Image, Runtime: runtime, Privileged: c.Spec.Privileged,
		Labels: map[string]string{LabelCluster: cluster, LabelRole: string(n.Role)},
		Tmpfs:  []string{"/run", "/tmp"},
		// Overlays of the node cannot lie on Docker's own.
		Volumes: []string{"/var"},
	}
}
