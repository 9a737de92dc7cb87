package cluster

import (
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/nodeimg/nodeimg/internal/dockerengine"
)

func TestControlPlaneConfigs(t *testing.T) {
	balanced, err := withEndpoint(shipped, "c-load-balancer")
	if err != nil {
		t.Fatal(err)
	}
	token := newToken()
	begun, err := initConfig(balanced, token, false)
	if err != nil {
		t.Fatal(err)
	}
	// Another node than the one that began the cluster.
	own := strings.ReplaceAll(shipped, "10.1.2.3", "10.1.2.4")
	kept, err := keptConfig(own, begun)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"controlPlaneEndpoint: c-load-balancer:6443", "advertiseAddress: 10.1.2.4", "kubernetesVersion: v1.34.10"} {
		if !strings.Contains(kept, want) {
			t.Errorf("no %q in what a control plane keeps:\n%s", want, kept)
		}
	}
	if strings.Contains(kept, token) || strings.Contains(kept, "10.1.2.3") {
		t.Errorf("a control plane keeps the token or another's address:\n%s", kept)
	}
	for _, alone := range []bool{true, false} {
		got, err := joinConfig(own, token, joining{role: RoleControlPlane, alone: alone})
		if err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(got, "localAPIEndpoint:") || !strings.Contains(got, "advertiseAddress: 10.1.2.4") || strings.Contains(got, "taints: []") != alone {
			t.Errorf("alone %v:\n%s", alone, got)
		}
	}
}

func TestLoadBalancerSpec(t *testing.T) {
	nodes := []dockerengine.ContainerSpec{{Name: "c-control-plane-1", Network: "other", Image: "image"}, {Name: "c-control-plane-2"}}
	api := netip.MustParseAddrPort("127.0.0.1:16443")
	spec := loadBalancerSpec("c", nodes, api)
	if !spec.Confined || spec.Privileged || spec.Runtime != "" || spec.Image != "image" || spec.Network != "other" ||
		!slices.Equal(spec.Entrypoint, []string{loadBalancerProgram, "c-control-plane-1", "c-control-plane-2"}) ||
		len(spec.Publish) != 1 || spec.Publish[0].Host != api || spec.Publish[0].Container != apiPort {
		t.Errorf("%+v", spec)
	}
}
