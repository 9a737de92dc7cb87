package clusters

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/nodeimg/nodeimg/test/internal/command"
)

// TestIPv6 makes a cluster of IPv6 alone: nodes, pods and services have no other addresses, pods reach all of them and names outside of the
// cluster, and so they do when the nodes come back with each other's addresses.
func TestIPv6(t *testing.T) {
	n := &netCluster{launcher: clusters(t), name: "ipv6"}
	controlPlane, worker := n.name+"-control-plane-1", n.name+"-worker-1"
	reached := command.Stopwatch(t)
	n.must("up", clusterImage, "--name", n.name, "--workers", "1", "--privileged", "--ip-family", "ipv6", "--publish", "30080", "--progress", "plain")
	reached("two nodes Ready")
	n.must("load", "--name", n.name, "archive:"+netImage(t))
	n.applyFile("testdata/network.yaml")
	n.pods(2)
	n.onlyIPv6()
	n.podsReachPods()
	n.services()
	n.podsKnowNodes()
	if published := strings.TrimSpace(n.docker("port", controlPlane, "30080")); !strings.HasPrefix(published, "[::1]:") {
		t.Errorf("the port is published at %s, want the loopback address of IPv6", published)
	} else if answer := n.get("http://" + published); !strings.HasPrefix(answer, "net-") {
		t.Errorf("the published port answers %q", answer)
	}
	reached("network tried")

	// The Engine gives out the lowest address first, and up starts nodes in any order.
	was := n.nodes
	order := []string{controlPlane, worker}
	slices.SortFunc(order, func(a, b string) int { return strings.Compare(was[b], was[a]) })
	n.docker("stop", controlPlane, worker)
	for _, node := range order {
		n.docker("start", node)
	}
	n.must("start", "--name", n.name, "--progress", "plain")
	n.eventually("waiting for the other addresses", func(context.Context) error {
		n.pods(2)
		if n.nodes[controlPlane] != was[worker] || n.nodes[worker] != was[controlPlane] {
			return fmt.Errorf("the nodes have %v, before %v", n.nodes, was)
		}
		return nil
	})
	n.onlyIPv6()
	n.podsReachPods()
	n.services()
	n.podsKnowNodes()
	reached("each other's addresses")
	n.must("down", "--name", n.name)
}

// onlyIPv6 holds that nothing of the cluster has an address of IPv4.
func (n *netCluster) onlyIPv6() {
	n.t.Helper()
	said := n.kubectl(n.name, "get", "nodes", "-o", `jsonpath={.items[*].status.addresses[?(@.type=="InternalIP")].address} `) +
		n.kubectl(n.name, "get", "pods", "--all-namespaces", "-o", "jsonpath={.items[*].status.podIPs[*].ip} {.items[*].status.hostIPs[*].ip} ") +
		n.kubectl(n.name, "get", "services,endpointslices", "--all-namespaces", "-o", "jsonpath={.items[*].spec.clusterIPs[*]} {.items[*].endpoints[*].addresses[*]}")
	for _, text := range strings.Fields(said) {
		if address, err := netip.ParseAddr(text); err != nil || !address.Is6() {
			n.t.Errorf("the cluster has the address %s: %v\n%s", text, err, said)
		}
	}
}

// podsKnowNodes holds that pods find what only Docker's resolver knows, and reach the service there.
func (n *netCluster) podsKnowNodes() {
	n.t.Helper()
	for pod := range n.addresses {
		for node := range n.nodes {
			n.eventually("asking "+node+" by its name", func(ctx context.Context) error {
				_, err := n.in(ctx, pod, "get", "http://"+node+":30080")
				return err
			})
		}
	}
}
