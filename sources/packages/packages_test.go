package packages_test

import (
	"testing"
	"time"

	"github.com/nodeimg/nodeimg/internal/cache"
	"github.com/nodeimg/nodeimg/internal/fetch"
	"github.com/nodeimg/nodeimg/recipes"
	"github.com/nodeimg/nodeimg/sources/packages"
)

// nodePackages are those of a node.
var nodePackages = []string{
	"systemd", "systemd-sysv", "dbus", "procps", "iproute2", "iptables", "nftables", "conntrack", "socat", "ethtool", "kmod", "ca-certificates",
	"libseccomp2", "netbase", "hostname", "bash",
}

var epoch = time.Unix(1_700_000_000, 0)

// sharedCache is the user's own cache, so that packages are downloaded once only.
func sharedCache(t *testing.T) *cache.Cache {
	t.Helper()
	c, err := cache.Open("")
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// privateCache has the packages of the shared one and nothing else.
func privateCache(t *testing.T, locked []recipes.LockedPackage) *cache.Cache {
	t.Helper()
	shared := sharedCache(t)
	client := &fetch.Client{Cache: shared}
	if err := packages.Fetch(t.Context(), client, locked); err != nil {
		t.Fatal(err)
	}
	c, err := cache.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range locked {
		linkBlob(t, shared, c, p.Digest)
	}
	return c
}
