package dockerengine

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// containerdStore is what Docker Engines with the containerd image store say of their storage driver (moby, daemon/containerd/service.go).
const containerdStore = "io.containerd.snapshotter.v1"

// Info is what an Engine says about itself and its host.
type Info struct {
	// Version is the Engine's own, for instance 28.5.2, and APIVersion the newest of its API, for instance 1.51.
	Version, APIVersion string
	// StorageDriver is the graph driver, or the snapshotter of the containerd image store.
	StorageDriver string
	// ContainerdStore says that images are kept by containerd.
	ContainerdStore bool
	// Runtimes are the names of the OCI runtimes, sorted.
	Runtimes []string
	// Root is the folder of the Engine's data, on its host.
	Root string
	// OS, Kernel and Hostname are those of the Engine's host.
	OS, Kernel, Hostname string
	// CgroupDriver is cgroupfs, systemd or none.
	CgroupDriver string
}

// Info asks the Engine what it is and what it can do.
func (e *Engine) Info(ctx context.Context) (Info, error) {
	version, err := e.client.ServerVersion(ctx)
	if err != nil {
		return Info{}, fmt.Errorf("asking the Docker Engine for its version: %w", plain(ctx, err))
	}
	said, err := e.client.Info(ctx)
	if err != nil {
		return Info{}, fmt.Errorf("asking the Docker Engine what it can do: %w", plain(ctx, err))
	}
	info := Info{
		Version: version.Version, APIVersion: version.APIVersion, StorageDriver: said.Driver,
		Runtimes: slices.Sorted(maps.Keys(said.Runtimes)), Root: said.DockerRootDir,
		OS: said.OSType, Kernel: said.KernelVersion, Hostname: said.Name, CgroupDriver: said.CgroupDriver,
	}
	for _, status := range said.DriverStatus {
		if status[0] == "driver-type" && strings.HasPrefix(status[1], containerdStore) {
			info.ContainerdStore = true
		}
	}
	return info, nil
}
