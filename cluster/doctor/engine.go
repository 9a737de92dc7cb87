package doctor

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/Masterminds/semver/v3"

	"github.com/nodeimg/nodeimg/builder/child"
	"github.com/nodeimg/nodeimg/internal/dockerengine"
)

// oldestAPI is the API of Docker Engine 20.10, the first whose containers have a cgroup namespace of their own.
// See https://docs.docker.com/reference/api/engine/version-history/.
var oldestAPI = semver.MustParse("1.41")

// withoutEngine is the verdict of checks that need the Engine, when it does not answer.
func (h *host) withoutEngine() (verdict, bool) {
	if h.engine != nil {
		return verdict{}, false
	}
	return verdict{Unknown, "the Docker Engine does not answer", "see Docker Engine"}, true
}

// local says that the Engine runs on this host: it is reached by a socket, and has the same kernel and name.
func (h *host) local() bool {
	if h.engine == nil || !strings.HasPrefix(h.address, "unix://") {
		return false
	}
	release, err := kernelRelease()
	if err != nil {
		return false
	}
	name, err := os.Hostname()
	return err == nil && h.engine.Kernel == release && h.engine.Hostname == name
}

// hasSysbox says that the Engine can start containers with sysbox-runc.
func (h *host) hasSysbox() bool {
	return h.engine != nil && slices.Contains(h.engine.Runtimes, child.RuntimeSysbox)
}

func checkEngine(_ context.Context, h *host) verdict {
	if h.engine == nil {
		return verdict{
			Failed, h.engineErr.Error(),
			"install Docker Engine 20.10 or newer and start it (systemctl start docker), or name another one with DOCKER_HOST; without root, its socket is for the group docker",
		}
	}
	return judgeEngine(*h.engine, h.address, h.local())
}

func judgeEngine(engine dockerengine.Info, address string, local bool) verdict {
	found := fmt.Sprintf("%s at %s, cgroup driver %s, runtimes %s", engine.Version, address, engine.CgroupDriver, listed(engine.Runtimes))
	version, err := semver.NewVersion(engine.APIVersion)
	switch {
	case engine.OS != "linux":
		return verdict{Failed, found + ", containers of " + engine.OS, "switch the Docker Engine to Linux containers"}
	case err != nil:
		return verdict{Unknown, fmt.Sprintf("%s, API %q", found, engine.APIVersion), "make sure that the Docker Engine is 20.10 or newer"}
	case version.LessThan(oldestAPI):
		return verdict{Failed, found, "install Docker Engine 20.10 or newer"}
	case !local:
		return verdict{
			Warning, found + ", on another machine: " + engine.Hostname,
			"run nodeimg there: up publishes the API server on that machine's loopback address, and kernel, mounts and limits were checked on this one",
		}
	}
	return verdict{OK, found, ""}
}

func checkImageStore(_ context.Context, h *host) verdict {
	if v, ok := h.withoutEngine(); ok {
		return v
	}
	return judgeImageStore(h.engine.StorageDriver, h.engine.ContainerdStore)
}

// judgeImageStore looks at how the Engine keeps images. vfs and native copy all of an image for every container.
func judgeImageStore(driver string, containerd bool) verdict {
	found := "graph driver " + driver
	if containerd {
		found = "containerd, snapshotter " + driver
	}
	if driver == "vfs" || driver == "native" {
		return verdict{
			Warning, found + ", which copies the image for every node",
			"put the Engine's data on a disk that can hold an overlayfs (\"data-root\" in /etc/docker/daemon.json), and let it choose its \"storage-driver\" itself",
		}
	}
	return verdict{OK, found, ""}
}

const sysboxInstall = "install Sysbox (https://github.com/nestybox/sysbox), or choose nodes with every privilege on this host by nodeimg up --privileged"

func checkSysbox(_ context.Context, h *host) verdict {
	if v, ok := h.withoutEngine(); ok {
		return v
	}
	switch {
	case !h.hasSysbox():
		return verdict{Warning, "the Docker Engine has no runtime " + child.RuntimeSysbox + ", so nodes need --privileged", sysboxInstall}
	case !h.local():
		return verdict{Unknown, "the Docker Engine has the runtime; its daemons are on " + h.engine.Hostname, "look there: systemctl status sysbox"}
	}
	if err := child.SysboxAnswers(); err != nil {
		return verdict{Failed, err.Error(), "systemctl restart sysbox; its logs are /var/log/sysbox-mgr.log and /var/log/sysbox-fs.log"}
	}
	return verdict{OK, "the Docker Engine has the runtime, and both daemons answer", ""}
}
