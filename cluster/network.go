package cluster

import (
	"strconv"

	"github.com/vishvananda/netlink"
)

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
