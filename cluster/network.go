package cluster

import (
	"context"
	"crypto/rand"
	"errors"
	"net/netip"
	"strconv"

	"github.com/vishvananda/netlink"

	"github.com/nodeimg/nodeimg/cluster/config"
	"github.com/nodeimg/nodeimg/internal/dockerengine"
	"github.com/nodeimg/nodeimg/recipes"
)

// makeNetwork makes the cluster's own network, unless the description names one that is there. That one has no label of the cluster, and so
// nobody removes it.
func (m *maker) makeNetwork(ctx context.Context) error {
	family := m.Config.Spec.Networking.IPFamily
	// Engines before 27.4 make no network without IPv4, and nodes do not mind it.
	ipv6 := family == config.IPv6 || family == config.Dual
	if name := m.Config.Spec.Networking.Network; name != "" {
		network, found, err := m.Engine.FindNetwork(ctx, name)
		switch {
		case err != nil:
			return err
		case !found:
			return recipes.InputErrorf("the Docker Engine has no network %s; docker network ls lists what it has", name)
		case ipv6 && !network.IPv6:
			return recipes.InputErrorf("the network %s has no IPv6 addresses, which ipFamily %s needs; make one with docker network create --ipv6", name, family)
		}
		return nil
	}
	spec := dockerengine.NetworkSpec{
		Name: networkName(m.name), Labels: map[string]string{LabelCluster: m.name, labelRun: m.run}, Options: networkOptions(),
	}
	if ipv6 {
		spec.IPv6 = uniqueLocal()
	}
	err := m.Engine.CreateNetwork(context.WithoutCancel(ctx), spec)
	if taken := new(dockerengine.TakenError); errors.As(err, &taken) {
		// The Engine may still have been at it when an earlier run was killed and this one looked for what is left.
		late, listErr := m.Engine.Networks(ctx, LabelCluster, m.name)
		if listErr != nil {
			return listErr
		}
		for _, n := range late {
			if removeErr := m.Engine.RemoveNetwork(ctx, n.ID); removeErr != nil {
				return removeErr
			}
		}
		if len(late) > 0 {
			err = m.Engine.CreateNetwork(context.WithoutCancel(ctx), spec)
		}
	}
	return because(err, "it is not this cluster's; remove it or choose another --name")
}

// uniqueLocal is an IPv6 subnet that nobody else is likely to have (RFC 4193).
func uniqueLocal() netip.Prefix {
	var address [16]byte
	_, _ = rand.Read(address[1:8])
	address[0] = 0xfd
	return netip.PrefixFrom(netip.AddrFrom16(address), 64)
}

// networkOptions are the bridge driver's options of a cluster's network: the MTU is that of the way out of this host, because behind a
// tunnel larger packets would vanish. A host without a way out has no say.
func networkOptions() map[string]string {
	routes, err := netlink.RouteList(nil, netlink.FAMILY_V4)
	if err != nil {
		return nil
	}
	for _, route := range routes {
		if route.Dst != nil && !route.Dst.IP.IsUnspecified() {
			continue
		}
		if link, err := netlink.LinkByIndex(route.LinkIndex); err == nil {
			return map[string]string{"com.docker.network.driver.mtu": strconv.Itoa(link.Attrs().MTU)}
		}
	}
	return nil
}
