package config

import (
	"cmp"
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
	k.subnets()
	if n.DNSDomain != "" {
		if wrong := validation.IsDNS1123Subdomain(n.DNSDomain); len(wrong) > 0 {
			k.report.Add(path+"dnsDomain", "found %s: %s", strictyaml.Quote(n.DNSDomain), wrong[0])
		}
	}
	k.address(path+"apiAddress", n.APIAddress)
}

func (k *checker) address(field, text string) {
	if text == "" {
		return
	}
	if _, err := netip.ParseAddr(text); err != nil {
		k.report.Add(field, "found %s, expected an address of the host, such as 127.0.0.1", strictyaml.Quote(text))
	}
}

// hostPort is a port of the host that something of the cluster takes.
type hostPort struct {
	address  netip.Addr
	protocol string
	port     int
	// of is what takes it, for messages.
	of string
}

// collides says that not both can be taken: an unspecified address is all of its family.
func (p hostPort) collides(other hostPort) bool {
	if p.protocol != other.protocol || p.port != other.port {
		return false
	}
	a, b := p.address, other.address
	return a == b || a.Is4() == b.Is4() && (a.IsUnspecified() || b.IsUnspecified())
}

// ports checks the ports of all groups beside each other, and beside that of the API server.
func (k *checker) ports() {
	var taken []hostPort
	if n := k.Networking; n.APIPort != 0 {
		if address, err := netip.ParseAddr(cmp.Or(n.APIAddress, DefaultListenAddress)); err == nil {
			taken = append(taken, hostPort{address, "tcp", n.APIPort, "the API server (spec.networking.apiPort)"})
		}
	}
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
				address, err := netip.ParseAddr(k.Networking.ListenAddress(p))
				if err != nil {
					continue
				}
				port := hostPort{address, p.Transport(), p.HostPort, field}
				if first := slices.IndexFunc(taken, port.collides); first >= 0 {
					k.report.Add(field+".hostPort", "found %d again, it is already that of %s", p.HostPort, taken[first].of)
				} else {
					taken = append(taken, port)
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
