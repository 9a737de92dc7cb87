package cluster

import (
	"cmp"
	"context"
	"maps"
	"net/netip"
	"slices"

	"github.com/docker/go-units"

	"github.com/nodeimg/nodeimg/cluster/config"
	"github.com/nodeimg/nodeimg/internal/dockerengine"
)

// propagations are the Engine's names of what a mount's propagation is in Kubernetes
// (https://kubernetes.io/docs/concepts/storage/volumes/#mount-propagation).
var propagations = map[string]string{"None": "rprivate", "HostToContainer": "rslave", "Bidirectional": "rshared"}

// nodeSpec is the container of a node of a valid description.
func nodeSpec(c config.Cluster, n config.Member, runtime string) dockerengine.ContainerSpec {
	cluster := c.Metadata.Name
	name := nodeName(cluster, n.Role, n.Number)
	spec := dockerengine.ContainerSpec{
		Name: name, Hostname: name, Network: cmp.Or(c.Spec.Networking.Network, networkName(cluster)),
		Image: n.Image, Runtime: runtime, Privileged: c.Spec.Privileged,
		Labels: map[string]string{LabelCluster: cluster, LabelRole: string(n.Role)},
		Tmpfs:  []string{"/run", "/tmp"},
		// Overlays of the node cannot lie on Docker's own.
		Volumes: []string{"/var"},
		CPUs:    n.CPUs,
	}
	spec.Env = append(spec.Env, cniVariable+"="+cmp.Or(c.Spec.Networking.CNI, cniAuto))
	if c.Spec.Networking.IPFamily == config.IPv6 {
		spec.Env = append(spec.Env, familyVariable+"="+config.IPv6)
	}
	for _, name := range slices.Sorted(maps.Keys(n.Env)) {
		spec.Env = append(spec.Env, name+"="+n.Env[name])
	}
	if n.Memory != "" {
		spec.Memory, _ = units.RAMInBytes(n.Memory)
	}
	for _, m := range n.Mounts {
		spec.Mounts = append(spec.Mounts, dockerengine.Mount{
			Source: m.HostPath, Target: m.ContainerPath, ReadOnly: m.ReadOnly, Propagation: propagations[m.Propagation],
		})
	}
	for _, p := range n.Ports {
		address, _ := netip.ParseAddr(c.Spec.Networking.ListenAddress(p))
		spec.Publish = append(spec.Publish, dockerengine.PublishedPort{
			Protocol: p.Transport(), Host: netip.AddrPortFrom(address, uint16(p.HostPort)), Container: uint16(p.ContainerPort),
		})
	}
	return spec
}

// familyVariable chooses the family of the address that a node is known by; the entrypoint takes IPv4 without it.
const familyVariable = "NODEIMG_IP_FAMILY"

// cniVariable chooses the pod network in a node, auto the one that needs no daemon, or none when the image has none (dockerfiles,
// entrypoint.sh).
const (
	cniVariable = "NODEIMG_CNI"
	cniAuto     = "auto"
)

// bridgeNetwork and otherNetwork are conditions of the shell: the node connects its pods itself, and it does so or has no pod network.
// Images of an earlier nodeimg do not tell; there the manifest decides.
const (
	bridgeNetwork = `grep -qsx ` + cniVariable + `=bridge /etc/nodeimg/network.env`
	otherNetwork  = `grep -qsxE '` + cniVariable + `=(bridge|none)' /etc/nodeimg/network.env`
)

// containers are those of all nodes of the cluster.
func (m *maker) containers(ctx context.Context) ([]dockerengine.ContainerSpec, error) {
	c := m.Config
	certificates, err := readCertificates(c.Spec.CACertificates)
	if err != nil {
		return nil, err
	}
	kept, err := remembered(c.Spec)
	if err != nil {
		return nil, err
	}
	var specs []dockerengine.ContainerSpec
	for _, n := range c.Spec.Members() {
		spec := nodeSpec(c, n, m.runtime)
		if spec.Files, err = startFiles(ctx, m.Engine, n.Image, certificates, c.Spec.RegistryMirrors); err != nil {
			return nil, err
		}
		if n.Role == RoleControlPlane {
			spec.Files = append(spec.Files, kept)
		}
		specs = append(specs, spec)
	}
	return specs, nil
}
