package config

import (
	"cmp"
	"net/netip"
	"slices"
	"strings"

	"github.com/nodeimg/nodeimg/dockerfiles"
	"github.com/nodeimg/nodeimg/internal/strictyaml"
)

// DefaultServiceSubnet is kubeadm's (k8s.io/kubernetes, cmd/kubeadm/app/apis/kubeadm/v1beta4/defaults.go), for configurations that name none.
const DefaultServiceSubnet = "10.96.0.0/12"

// The subnets of clusters with IPv6 that name none.
const (
	ipv6PodSubnet     = "fd00:10:244::/56"
	ipv6ServiceSubnet = "fd00:10:96::/112"
	dualPodSubnet     = dockerfiles.PodSubnet + "," + ipv6PodSubnet
	dualServiceSubnet = "10.96.0.0/16," + ipv6ServiceSubnet
)

// defaultServiceSubnets are those of the families that are not the image's to choose.
var defaultServiceSubnets = map[string]string{"": DefaultServiceSubnet, IPv4: DefaultServiceSubnet, IPv6: ipv6ServiceSubnet, Dual: dualServiceSubnet}

// Subnets are what pods and services of a defaulted description get their addresses from, one of each family with commas between them, as
// long as neither the image nor a patch says otherwise.
func (n Networking) Subnets() (pods, services string) {
	return cmp.Or(n.PodSubnet, dockerfiles.PodSubnet), cmp.Or(n.ServiceSubnet, DefaultServiceSubnet)
}

// Overlap finds a subnet of pods that overlaps with one of services. Both are lists with commas; what is no subnet is passed over.
func Overlap(pods, services string) (pod, service netip.Prefix, found bool) {
	for _, pod := range prefixes(pods) {
		for _, service := range prefixes(services) {
			if pod.Overlaps(service) {
				return pod, service, true
			}
		}
	}
	return netip.Prefix{}, netip.Prefix{}, false
}

func prefixes(text string) []netip.Prefix {
	var list []netip.Prefix
	for part := range strings.SplitSeq(text, ",") {
		if prefix, err := netip.ParsePrefix(part); err == nil {
			list = append(list, prefix)
		}
	}
	return list
}

// Places of the subnets in a description.
const (
	podSubnetField     = "spec.networking.podSubnet"
	serviceSubnetField = "spec.networking.serviceSubnet"
)

// subnets checks the subnets that are given.
func (k *checker) subnets() {
	n := k.Networking
	k.prefixes(podSubnetField, n.PodSubnet)
	k.prefixes(serviceSubnetField, n.ServiceSubnet)
	for _, p := range prefixes(n.PodSubnet) {
		k.podSize(p)
	}
	for _, p := range prefixes(n.ServiceSubnet) {
		k.serviceSize(p)
	}
	k.apart(n.PodSubnet, n.ServiceSubnet)
}

// apart reports a subnet of pods that overlaps with one of services, at the one that somebody has chosen.
func (k *checker) apart(pods, services string) {
	pod, service, found := Overlap(pods, services)
	switch {
	case !found:
	case services == defaultServiceSubnets[k.Networking.IPFamily]:
		k.report.Add(podSubnetField, "found %s, which overlaps with the serviceSubnet %s; choose another one, or give a serviceSubnet too", pod, service)
	default:
		k.report.Add(serviceSubnetField, "found %s, which overlaps with the podSubnet %s", service, pod)
	}
}

// defaulted checks what flags can still put right: the subnets beside those that are not given, and beside the number of nodes. Of the
// image's own subnet of pods only the image knows (cluster.description.configure).
func (k *checker) defaulted() {
	n := k.Networking
	if n.ServiceSubnet == "" && !k.mentioned("serviceSubnet") {
		k.apart(n.PodSubnet, DefaultServiceSubnet)
	}
	// A pod network of the user's own need not ask for the nodes' subnets.
	if n.CNI == CNINone || k.mentioned(nodeMasks...) {
		return
	}
	nodes := k.ControlPlanes.Count() + k.Workers.Count()
	for _, p := range prefixes(n.PodSubnet) {
		mask := nodeMask(p)
		if least := mask - p.Bits(); least >= 0 && least < 31 && nodes > 1<<least {
			k.report.Add(podSubnetField, "found %s, of which each node gets a /%d: it is enough for %d, but there are %d nodes; choose a larger one, or cni none",
				p, mask, 1<<least, nodes)
		}
	}
}

// prefixes checks the form of a field's subnets: one of each of the cluster's families.
func (k *checker) prefixes(field, text string) {
	if text == "" {
		return
	}
	families := map[bool]int{}
	for part := range strings.SplitSeq(text, ",") {
		prefix, err := netip.ParsePrefix(part)
		switch {
		case err != nil:
			k.report.Add(field, "found %s, expected a subnet such as 10.244.0.0/16", strictyaml.Quote(part))
			return
		case prefix != prefix.Masked():
			k.report.Add(field, "found %s, whose address lies inside of the subnet; did you mean %s?", prefix, prefix.Masked())
			return
		}
		families[prefix.Addr().Is4()]++
	}
	switch family := k.Networking.IPFamily; {
	case family == Dual && (families[true] != 1 || families[false] != 1):
		k.report.Add(field, "found %s, expected one subnet of each family with a comma between them, because ipFamily is dual", strictyaml.Quote(text))
	case family == IPv6 && (families[true] != 0 || families[false] != 1):
		k.report.Add(field, "found %s, expected one IPv6 subnet, because ipFamily is ipv6; dual takes one of each family", strictyaml.Quote(text))
	case family != IPv6 && family != Dual && (families[true] != 1 || families[false] != 0):
		k.report.Add(field, "found %s, expected one IPv4 subnet; ipFamily: ipv6 takes one of IPv6, and dual one of each family", strictyaml.Quote(text))
	}
}

// What kubeadm takes (k8s.io/kubernetes, cmd/kubeadm/app/constants and ValidateNetworking of cmd/kubeadm/app/apis/kubeadm/validation).
const (
	// maxServiceBits are those of a subnet of services.
	maxServiceBits = 20
	// serviceBits are enough for the 10 addresses that services need at least, podBits for the 14 of pods.
	serviceBits = 4
	podBits     = 4
	// maxNodeBits are those by which the subnet of a node may be longer than that of all pods.
	maxNodeBits = 16
)

// nodeMasks are arguments of the controller manager that change what each node gets of the pods' subnet.
var nodeMasks = []string{"node-cidr-mask-size", "allocate-node-cidrs"}

// nodeMask is the length of what each node gets of the pods' subnet.
func nodeMask(pods netip.Prefix) int {
	if pods.Addr().Is4() {
		return 24
	}
	return 64
}

func (k *checker) serviceSize(p netip.Prefix) {
	bits := p.Addr().BitLen()
	if p.Bits() < bits-maxServiceBits || p.Bits() > bits-serviceBits {
		k.report.Add(serviceSubnetField, "found %s, expected a subnet from /%d to /%d", p, bits-maxServiceBits, bits-serviceBits)
	}
}

func (k *checker) podSize(p netip.Prefix) {
	bits, mask := p.Addr().BitLen(), nodeMask(p)
	switch {
	case k.mentioned(nodeMasks...):
		if p.Bits() > bits-podBits {
			k.report.Add(podSubnetField, "found %s, expected a subnet of at most /%d", p, bits-podBits)
		}
	case p.Bits() < mask-maxNodeBits || p.Bits() > mask:
		k.report.Add(podSubnetField, "found %s, expected a subnet from /%d to /%d, of which each node gets a /%d", p, mask-maxNodeBits, mask, mask)
	}
}

// mentioned says that a patch of what the first control plane is made of has one of the words, so that the patch has the last word.
func (k *checker) mentioned(words ...string) bool {
	first := k.Member(slices.Concat(k.ControlPlanes, Groups{{}})[0], RoleControlPlane, 1)
	texts := slices.Clone(first.KubeadmPatches)
	for _, p := range first.KubeadmPatchesJSON6902 {
		texts = append(texts, p.Patch)
	}
	return slices.ContainsFunc(texts, func(text string) bool {
		return slices.ContainsFunc(words, func(word string) bool { return strings.Contains(text, word) })
	})
}
