package cluster

import (
	"bytes"
	"context"
	"fmt"
	"net/netip"
	"strings"

	"golang.org/x/sync/errgroup"

	"github.com/nodeimg/nodeimg/internal/dockerengine"
	"github.com/nodeimg/nodeimg/internal/progress"
)

// RoleLoadBalancer is that of the container before the API servers of several control planes. It is no node.
const RoleLoadBalancer Role = "load-balancer"

// Files of node images (dockerfiles/node/files).
const (
	// loadBalancerProgram is the only program of the load balancer.
	loadBalancerProgram = "/usr/lib/nodeimg/load-balancer.sh"
	// namePeersProgram makes names of the addresses by which the members of etcd know each other.
	namePeersProgram = "/usr/lib/nodeimg/name-etcd-peers.sh"
	// usedConfig is where a control plane keeps the configuration that it was made with; the entrypoint needs it to follow its address.
	usedConfig = "/etc/kubernetes/kubeadm.yaml"
)

// loadBalancerName is the name of the load balancer's container, and of the API server for all nodes.
func loadBalancerName(cluster string) string { return cluster + "-" + string(RoleLoadBalancer) }

// loadBalancerSpec is the container before control planes, of the first one's image. It runs under the Engine's own runtime also where
// nodes do not: it has less than any of them.
func loadBalancerSpec(cluster string, controlPlanes []dockerengine.ContainerSpec, api netip.AddrPort) dockerengine.ContainerSpec {
	name := loadBalancerName(cluster)
	command := []string{loadBalancerProgram}
	for _, n := range controlPlanes {
		command = append(command, n.Name)
	}
	return dockerengine.ContainerSpec{
		Name: name, Hostname: name, Network: controlPlanes[0].Network, Image: controlPlanes[0].Image,
		Labels:     map[string]string{LabelCluster: cluster, LabelRole: string(RoleLoadBalancer)},
		Entrypoint: command,
		StopSignal: "SIGTERM",
		Confined:   true,
		Tmpfs:      []string{"/run"},
		Publish:    []dockerengine.PublishedPort{{Host: api, Container: apiPort}},
	}
}

// listens waits until the load balancer takes connections.
func (n *member) listens(ctx context.Context) error {
	step := progress.Start(ctx, "[%s] boot", n.name)
	err := until(ctx, n.wait, func(ctx context.Context) error {
		_, err := n.exec(ctx, "bash", "-c", fmt.Sprintf("exec 3<>/dev/tcp/127.0.0.1/%d", apiPort))
		return err
	})
	if err != nil && ctx.Err() == nil {
		console, _ := n.engine.Logs(ctx, n.id)
		err = fmt.Errorf("load balancer %s: %w\n%s", n.name, err, strings.TrimSpace(console))
	}
	return step.Done(err)
}

// authorities are the keys that all control planes of a cluster share, below /etc/kubernetes/pki
// (https://kubernetes.io/docs/setup/best-practices/certificates/).
var authorities = []string{
	"ca.crt", "ca.key", "sa.key", "sa.pub", "front-proxy-ca.crt", "front-proxy-ca.key", "etcd/ca.crt", "etcd/ca.key",
}

// authorities reads the shared keys of the control plane n, as an archive that only goes from node to node.
func (n *member) authorities(ctx context.Context) ([]byte, error) {
	var archive bytes.Buffer
	err := n.engine.ExecTo(ctx, n.id, &archive, append([]string{"tar", "-C", "/etc/kubernetes/pki", "-c"}, authorities...)...)
	return archive.Bytes(), err
}

// joinAll makes control planes and workers of all nodes but the first, which has begun the cluster with the configuration.
func (m *maker) joinAll(ctx context.Context, config string) error {
	first := m.controlPlanes[0]
	to, err := first.invite(ctx, m.token)
	if err != nil {
		return err
	}
	group, groupCtx := errgroup.WithContext(ctx)
	for _, w := range m.workers {
		group.Go(func() error { return w.join(groupCtx, to, joining{role: RoleWorker}) })
	}
	if len(m.controlPlanes) > 1 {
		group.Go(func() error { return m.joinControlPlanes(groupCtx, to, config) })
	}
	return group.Wait()
}

// joinControlPlanes makes control planes of all but the first, which etcd takes one after the other while everything else of theirs
// happens at once.
func (m *maker) joinControlPlanes(ctx context.Context, to invitation, config string) error {
	first := m.controlPlanes[0]
	keys, err := first.authorities(ctx)
	if err != nil {
		return err
	}
	group, groupCtx := errgroup.WithContext(ctx)
	for _, n := range m.controlPlanes[1:] {
		group.Go(func() error {
			_, err := m.Engine.Exec(groupCtx, n.id, bytes.NewReader(keys), nil, "sh", "-c", "mkdir -p /etc/kubernetes/pki && tar -C /etc/kubernetes/pki -x")
			if err != nil {
				return err
			}
			if err := n.keep(groupCtx, config); err != nil {
				return err
			}
			return n.join(groupCtx, to, joining{role: RoleControlPlane, alone: m.alone()})
		})
	}
	if err := group.Wait(); err != nil {
		return err
	}
	step := progress.Start(ctx, "[%s] members of etcd know each other by name", first.name)
	return step.Done(first.explained(ctx, first.await(ctx, namePeersProgram+" 2>&1")))
}

// keep writes down what the control plane n is made with: its own address, and the cluster of the configuration that began it.
func (n *member) keep(ctx context.Context, config string) error {
	shipped, err := n.exec(ctx, "cat", shippedConfig)
	if err != nil {
		return err
	}
	kept, err := keptConfig(shipped, config)
	if err != nil {
		return err
	}
	return n.write(ctx, usedConfig, kept)
}

// keptConfig is the shipped configuration of a control plane with the cluster of the configuration that began it. It has no token.
func keptConfig(shipped, config string) (string, error) {
	own, err := documents(shipped)
	if err != nil {
		return "", err
	}
	initial, err := find(own, "InitConfiguration")
	if err != nil {
		return "", err
	}
	used, err := documents(config)
	if err != nil {
		return "", err
	}
	cluster, err := find(used, "ClusterConfiguration")
	if err != nil {
		return "", err
	}
	return encode(initial, cluster)
}

// withEndpoint is the shipped configuration of a cluster whose API servers are reached at the host.
func withEndpoint(shipped, host string) (string, error) {
	list, err := documents(shipped)
	if err != nil {
		return "", err
	}
	cluster, err := find(list, "ClusterConfiguration")
	if err != nil {
		return "", err
	}
	cluster["controlPlaneEndpoint"] = fmt.Sprintf("%s:%d", host, apiPort)
	return encode(list...)
}
