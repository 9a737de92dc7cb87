package config

import (
	"fmt"
	"maps"
	"net/netip"
	"regexp"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/nodeimg/nodeimg/internal/strictyaml"
)

// The families of addresses.
const (
	IPv4 = "ipv4"
	IPv6 = "ipv6"
	Dual = "dual"
)

// The subnets of clusters with IPv6 that name none.
const (
	ipv6PodSubnet     = "fd00:10:244::/56"
	ipv6ServiceSubnet = "fd00:10:96::/112"
	dualPodSubnet     = "10.244.0.0/16," + ipv6PodSubnet
	dualServiceSubnet = "10.96.0.0/16," + ipv6ServiceSubnet
)

// The pod networks that can be chosen for a cluster.
const (
	CNIBridge  = "bridge"
	CNIFlannel = "flannel"
	CNINone    = "none"
)

// networkForm is that of names in the Docker Engine.
var networkForm = regexp.MustCompile(`^[a-zA-Z0-9][a-zA-Z0-9_.-]*$`)

func (k *checker) networking() {
	n := k.Networking
	const path = "spec.networking."
	switch {
	case n.Network == "":
	case !networkForm.MatchString(n.Network):
		k.report.Add(path+"network", "found %s, expected the name of a network of the Docker Engine", strictyaml.Quote(n.Network))
	case slices.Contains([]string{"bridge", "host", "none", "default"}, n.Network):
		k.report.Add(path+"network", "found %s, where nodes do not find each other by name; expected a network of your own (docker network create)", n.Network)
	}
	pods := k.subnets(path+"podSubnet", n.PodSubnet)
	services := k.subnets(path+"serviceSubnet", n.ServiceSubnet)
	for _, p := range pods {
		for _, s := range services {
			if p.Overlaps(s) {
				k.report.Add(path+"serviceSubnet", "found %s, which overlaps with the podSubnet %s", s, p)
			}
		}
	}
	if n.DNSDomain != "" {
		if wrong := validation.IsDNS1123Subdomain(n.DNSDomain); len(wrong) > 0 {
			k.report.Add(path+"dnsDomain", "found %s: %s", strictyaml.Quote(n.DNSDomain), wrong[0])
		}
	}
	k.address(path+"apiAddress", n.APIAddress)
}

// subnets reads the subnets of a field: one of each of the cluster's families.
func (k *checker) subnets(field, text string) []netip.Prefix {
	if text == "" {
		return nil
	}
	var list []netip.Prefix
	families := map[bool]int{}
	for part := range strings.SplitSeq(text, ",") {
		prefix, err := netip.ParsePrefix(strings.TrimSpace(part))
		switch {
		case err != nil:
			k.report.Add(field, "found %s, expected a subnet such as 10.244.0.0/16", strictyaml.Quote(part))
			return nil
		case prefix != prefix.Masked():
			k.report.Add(field, "found %s, whose address lies inside of the subnet; did you mean %s?", prefix, prefix.Masked())
			return nil
		}
		families[prefix.Addr().Is4()]++
		list = append(list, prefix)
	}
	switch family := k.Networking.IPFamily; {
	case family == Dual && (families[true] != 1 || families[false] != 1):
		k.report.Add(field, "found %s, expected one subnet of each family with a comma between them, because ipFamily is dual", strictyaml.Quote(text))
	case family == IPv6 && (families[true] != 0 || families[false] != 1):
		k.report.Add(field, "found %s, expected one IPv6 subnet, because ipFamily is ipv6; dual takes one of each family", strictyaml.Quote(text))
	case family != IPv6 && family != Dual && (families[true] != 1 || families[false] != 0):
		k.report.Add(field, "found %s, expected one IPv4 subnet; ipFamily: ipv6 takes one of IPv6, and dual one of each family", strictyaml.Quote(text))
	}
	return list
}

func (k *checker) address(field, text string) {
	if text == "" {
		return
	}
	if _, err := netip.ParseAddr(text); err != nil {
		k.report.Add(field, "found %s, expected an address of the host, such as 127.0.0.1", strictyaml.Quote(text))
	}
}

// ports checks the ports of all groups beside each other.
func (k *checker) ports() {
	type hostPort struct {
		address, protocol string
		port              int
	}
	seen := map[hostPort]string{}
	for _, role := range []struct {
		path   string
		groups Groups
	}{{"spec.controlPlanes", k.ControlPlanes}, {"spec.workers", k.Workers}} {
		for i, g := range role.groups {
			for j, p := range g.Ports {
				field := fmt.Sprintf("%s[%d].ports[%d]", role.path, i, j)
				k.address(field+".listenAddress", p.ListenAddress)
				if p.ContainerPort == 0 {
					k.report.Add(field+".containerPort", "found 0, expected a number from 1 to 65535")
				}
				if p.HostPort == 0 {
					continue
				}
				if g.Count > 1 {
					k.report.Add(field+".hostPort", "found %d in a group of %d nodes, which cannot all have it; make a group of one node, or leave hostPort out",
						p.HostPort, g.Count)
				}
				id := hostPort{k.Networking.ListenAddress(p), p.Transport(), p.HostPort}
				if first, again := seen[id]; again {
					k.report.Add(field+".hostPort", "found %d again, it is already that of %s", p.HostPort, first)
				} else {
					seen[id] = field
				}
			}
		}
	}
}

// DefaultListenAddress is where the API server and ports are published that name no address: nobody but this host reaches them.
const DefaultListenAddress = "127.0.0.1"

// ListenAddress is the host's address that a node's port is published at. The Engine passes connections on to the node's address of the
// same family, at which services of type NodePort answer in clusters of IPv6 alone.
func (n Networking) ListenAddress(p Port) string {
	switch {
	case p.ListenAddress != "":
		return p.ListenAddress
	case n.IPFamily == IPv6:
		return "::1"
	default:
		return DefaultListenAddress
	}
}

// Transport is the port's protocol, tcp or udp.
func (p Port) Transport() string {
	if p.Protocol == "" {
		return "tcp"
	}
	return strings.ToLower(p.Protocol)
}

// registryHost is a host of a registry with an optional port.
var registryHost = regexp.MustCompile(`^[a-z0-9]([a-z0-9.-]*[a-z0-9])?(:[0-9]{1,5})?$`)

func (k *checker) mirrors() {
	for _, host := range slices.Sorted(maps.Keys(k.RegistryMirrors)) {
		field := "spec.registryMirrors[" + host + "]"
		if !registryHost.MatchString(host) {
			k.report.Add(field, "found %s as a registry, expected its host alone, such as docker.io", strictyaml.Quote(host))
			continue
		}
		if len(k.RegistryMirrors[host]) == 0 {
			k.report.Add(field, "found no mirror, expected a list of URLs such as https://mirror.example")
		}
		for i, url := range k.RegistryMirrors[host] {
			k.report.MirrorURL(fmt.Sprintf("%s[%d]", field, i), url)
		}
	}
}
