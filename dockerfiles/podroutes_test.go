package dockerfiles

import (
	"fmt"
	"net/netip"
	"os/exec"
	"strings"
	"testing"
)

// TestPodRoutes holds the commands that connect a node's pods against what netip knows of prefixes: one address that is the node's own,
// and for every part of the pod subnet one route, by the address at which that part's node answers.
func TestPodRoutes(t *testing.T) {
	const cluster, other = "0123456789abcdef0123", "5123456789abcdef0123"
	routes := func(t *testing.T, cluster, part, subnet string) (own string, via map[netip.Prefix]string) {
		t.Helper()
		out, err := exec.CommandContext(t.Context(), "awk", "-v", "cluster="+cluster, "-v", "device=eth7", "-v", "part="+part, "-v", "subnet="+subnet,
			"-f", "node/files/usr/lib/nodeimg/pod-routes.awk").CombinedOutput()
		if err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		via = map[netip.Prefix]string{}
		for line := range strings.Lines(string(out)) {
			var prefix, answering string
			switch n, _ := fmt.Sscanf(line, "route replace %s via %s dev eth7 onlink metric 4096\n", &prefix, &answering); {
			case n == 2:
				via[netip.MustParsePrefix(prefix)] = answering
			case strings.HasPrefix(line, "address replace "):
				own, _, _ = strings.Cut(strings.Fields(line)[2], "/")
			default:
				if _, err := fmt.Sscanf(line, "route replace unreachable %s metric 4096\n", &prefix); err != nil {
					t.Fatalf("%q: %v", line, err)
				}
				via[netip.MustParsePrefix(prefix)] = "unreachable"
			}
		}
		return own, via
	}
	for _, test := range []struct{ part, second, subnet, from string }{
		{"10.244.0.0/24", "10.244.255.0/24", "10.244.0.0/16", "240.0.0.0/4"},
		{"10.1.2.64/26", "10.1.2.192/26", "10.1.2.0/24", "240.0.0.0/4"},
		{"10.3.64.0/20", "10.0.16.0/20", "10.0.0.0/14", "240.0.0.0/4"},
		{"192.168.7.0/24", "192.168.6.0/24", "192.168.6.0/23", "240.0.0.0/4"},
		{"fd00:10:244:2::/64", "fd00:10:244:ff::/64", "fd00:10:244::/56", "fe80::/64"},
		{"fd00::1:0/112", "fd00::/112", "fd00::/104", "fe80::/64"},
	} {
		t.Run(test.part, func(t *testing.T) {
			subnet, part := netip.MustParsePrefix(test.subnet), netip.MustParsePrefix(test.part)
			own, via := routes(t, cluster, test.part, test.subnet)
			if !netip.MustParsePrefix(test.from).Contains(netip.MustParseAddr(own)) {
				t.Errorf("the node answers at %s, want one of %s", own, test.from)
			}
			if want := 1 << (part.Bits() - subnet.Bits()); len(via) != want {
				t.Errorf("%d routes, want %d", len(via), want)
			}
			addresses := map[string]bool{own: true}
			for prefix, address := range via {
				if prefix != prefix.Masked() || prefix.Bits() != part.Bits() || !subnet.Overlaps(prefix) {
					t.Errorf("%s is no part of %s", prefix, subnet)
				}
				if (prefix == part) != (address == "unreachable") {
					t.Errorf("%s via %s", prefix, address)
				}
				if prefix != part && addresses[address] {
					t.Errorf("two nodes answer at %s", address)
				}
				addresses[address] = true
			}
			// Another node's view is the same, and another cluster shares no address.
			second, back := routes(t, cluster, test.second, test.subnet)
			if got := via[netip.MustParsePrefix(test.second)]; got != second {
				t.Errorf("%s is reached by %s, but its node answers at %s", test.second, got, second)
			}
			if got := back[part]; got != own {
				t.Errorf("%s is reached by %s, but its node answers at %s", part, got, own)
			}
			if stranger, _ := routes(t, other, test.part, test.subnet); addresses[stranger] {
				t.Errorf("another cluster's node answers at %s too", stranger)
			}
		})
	}
	for _, strange := range []string{"10.9.0.0/24", "fd00::/64", "10.244.0.0/8"} {
		if own, via := routes(t, cluster, strange, "10.244.0.0/16"); own != "" || len(via) > 0 {
			t.Errorf("%s is no part of 10.244.0.0/16, but gets %s and %v", strange, own, via)
		}
	}
}
