package child

import (
	"fmt"
	"path/filepath"

	"github.com/pelletier/go-toml/v2"
)

// daemonConfig is the part of buildkitd.toml that a child needs.
// See https://github.com/moby/buildkit/blob/v0.33.1/docs/buildkitd.toml.md.
type daemonConfig struct {
	Root         string   `toml:"root"`
	Entitlements []string `toml:"insecure-entitlements"`
	GRPC         struct {
		Address []string `toml:"address"`
	} `toml:"grpc"`
	OTEL struct {
		SocketPath string `toml:"socketPath"`
	} `toml:"otel"`
	CDI struct {
		Disabled bool `toml:"disabled"`
	} `toml:"cdi"`
	History struct {
		MaxEntries int `toml:"maxEntries"`
	} `toml:"history"`
	Frontend map[string]frontendConfig `toml:"frontend"`
	Worker   struct {
		OCI        ociConfig      `toml:"oci"`
		Containerd frontendConfig `toml:"containerd"`
	} `toml:"worker"`
}

type frontendConfig struct {
	Enabled bool `toml:"enabled"`
}

type ociConfig struct {
	Enabled       bool   `toml:"enabled"`
	Snapshotter   string `toml:"snapshotter"`
	Binary        string `toml:"binary"`
	NetworkMode   string `toml:"networkMode"`
	CgroupParent  string `toml:"defaultCgroupParent"`
	GC            bool   `toml:"gc"`
	ReservedSpace string `toml:"reservedSpace"`
	MaxUsedSpace  string `toml:"maxUsedSpace"`
	MinFreeSpace  string `toml:"minFreeSpace"`
}

// historyEntries bounds the records of past builds, which nodeimg never shows.
const historyEntries = 10

// configuration returns the daemon's configuration file.
func configuration(root, socket, runtime, cgroup, keep string, entitlements []string) ([]byte, error) {
	var c daemonConfig
	c.Root = root
	c.Entitlements = entitlements
	c.GRPC.Address = []string{"unix://" + socket}
	// Its default is one path below /run for every daemon on the machine.
	c.OTEL.SocketPath = filepath.Join(filepath.Dir(socket), "otel.sock")
	c.CDI.Disabled = true
	c.History.MaxEntries = historyEntries
	// Only the frontend inside this very binary: an image as frontend would be an input that no lock names.
	c.Frontend = map[string]frontendConfig{"dockerfile.v0": {Enabled: true}, "gateway.v0": {Enabled: false}}
	c.Worker.OCI = ociConfig{
		Enabled:     true,
		Snapshotter: "auto",
		Binary:      runtime,
		// Steps that use the network at all use the host's; every step that does not says "--network=none".
		NetworkMode:   "host",
		CgroupParent:  cgroup,
		GC:            true,
		ReservedSpace: "2GB",
		MaxUsedSpace:  keep,
		MinFreeSpace:  "5%",
	}
	b, err := toml.Marshal(c)
	if err != nil {
		return nil, fmt.Errorf("writing buildkitd's configuration: %w", err)
	}
	return b, nil
}
