package doctor

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"
)

// The oldest kernel that Kubernetes supports.
// See https://github.com/kubernetes/system-validators/blob/v1.10.2/validators/types_unix.go.
const (
	oldestMajor = 5
	oldestMinor = 4
)

// neededControllers are those that nodes need, by the version of control groups. On version 2 devices and freezer are no controllers but
// always there. From the same file; cpuacct is its cgroup v1 list's.
var neededControllers = map[int][]string{
	1: {"cpu", "cpuacct", "cpuset", "devices", "freezer", "memory", "pids"},
	2: {"cpu", "cpuset", "memory", "pids"},
}

func kernelRelease() (string, error) {
	var name unix.Utsname
	if err := unix.Uname(&name); err != nil {
		return "", fmt.Errorf("asking the kernel for its version: %w", err)
	}
	return unix.ByteSliceToString(name.Release[:]), nil
}

func checkKernel(context.Context, *host) verdict {
	release, err := kernelRelease()
	if err != nil {
		return unreadable(err)
	}
	return judgeKernel(release)
}

// judgeKernel looks at a kernel's release, for instance 6.1.0-18-amd64.
func judgeKernel(release string) verdict {
	var major, minor int
	if _, err := fmt.Sscanf(release, "%d.%d", &major, &minor); err != nil {
		return verdict{Unknown, release + ", which is no version that nodeimg understands", fmt.Sprintf("make sure that it is %d.%d or newer", oldestMajor, oldestMinor)}
	}
	if major < oldestMajor || major == oldestMajor && minor < oldestMinor {
		return verdict{Failed, release, fmt.Sprintf("boot a kernel of version %d.%d or newer, better 5.19 or newer", oldestMajor, oldestMinor)}
	}
	return verdict{OK, release, ""}
}

// controlGroups is what a host has of them.
type controlGroups struct {
	version int
	// controllers are those that can be used, delegated those that children of the visible root have already (version 2 only).
	controllers, delegated []string
}

const controlGroupRoot = "/sys/fs/cgroup"

// readControlGroups looks at the mounted hierarchies.
func readControlGroups() (controlGroups, error) {
	var root unix.Statfs_t
	if err := unix.Statfs(controlGroupRoot, &root); err != nil {
		return controlGroups{}, fmt.Errorf("looking at %s: %w", controlGroupRoot, err)
	}
	if root.Type == unix.CGROUP2_SUPER_MAGIC {
		read := func(name string) ([]string, error) {
			text, err := os.ReadFile(filepath.Join(controlGroupRoot, name))
			return strings.Fields(string(text)), err
		}
		controllers, err := read("cgroup.controllers")
		if err != nil {
			return controlGroups{}, err
		}
		delegated, err := read("cgroup.subtree_control")
		return controlGroups{2, controllers, delegated}, err
	}
	mounts, err := mountinfo.GetMounts(mountinfo.FSTypeFilter("cgroup"))
	if err != nil {
		return controlGroups{}, fmt.Errorf("finding the control groups: %w", err)
	}
	known, err := os.ReadFile("/proc/cgroups")
	if err != nil {
		return controlGroups{}, err
	}
	groups := controlGroups{version: 1}
	for _, m := range mounts {
		for option := range strings.SplitSeq(m.VFSOptions, ",") {
			// The options of the file system stand between the controllers.
			if bytes.Contains(known, []byte("\n"+option+"\t")) && !slices.Contains(groups.controllers, option) {
				groups.controllers = append(groups.controllers, option)
			}
		}
	}
	slices.Sort(groups.controllers)
	return groups, nil
}

func checkControlGroups(context.Context, *host) verdict {
	groups, err := readControlGroups()
	if err != nil {
		return unreadable(err)
	}
	return judgeControlGroups(groups)
}

func judgeControlGroups(groups controlGroups) verdict {
	found := fmt.Sprintf("version %d: %s", groups.version, listed(groups.controllers))
	if groups.version == 2 {
		found += "; delegated: " + listed(groups.delegated)
	}
	var missing []string
	for _, name := range neededControllers[groups.version] {
		if !slices.Contains(groups.controllers, name) {
			missing = append(missing, name)
		}
	}
	switch {
	case len(missing) > 0 && groups.version == 2:
		return verdict{Failed, found, fmt.Sprintf("delegate %s to this host's root (systemd: Delegate=yes), or boot without cgroup_disable=", listed(missing))}
	case len(missing) > 0:
		return verdict{Failed, found, fmt.Sprintf("mount %s below %s, or boot without cgroup_disable=", listed(missing), controlGroupRoot)}
	case groups.version == 1:
		return verdict{Warning, found, "Kubernetes gives up version 1, though node images still run on it: boot with systemd.unified_cgroup_hierarchy=1"}
	}
	return verdict{OK, found, ""}
}

// listed is a list for people.
func listed(names []string) string {
	if len(names) == 0 {
		return "none"
	}
	return strings.Join(names, " ")
}

func checkSysResource(context.Context, *host) verdict {
	owned, err := unix.PrctlRetInt(unix.PR_CAPBSET_READ, unix.CAP_SYS_RESOURCE, 0, 0, 0)
	if err != nil {
		return unreadable(fmt.Errorf("asking for the bounding set of capabilities: %w", err))
	}
	uids, err := os.ReadFile("/proc/self/uid_map")
	if err != nil {
		return unreadable(err)
	}
	return judgeSysResource(owned == 1, string(uids))
}

// judgeSysResource looks at the bounding set of this process, which everything on the host usually shares, and at its user namespace: only
// the initial one maps every user to itself (user_namespaces(7)).
func judgeSysResource(owned bool, uidMap string) verdict {
	initial := slices.Equal(strings.Fields(uidMap), []string{"0", "0", "4294967295"})
	const cope = "; nodes cope: containers keep the oom_score_adj that they are started with"
	switch {
	case !owned:
		return verdict{Warning, "not to be had" + cope, "start what nodeimg and the Docker Engine run in with CAP_SYS_RESOURCE (docker run --cap-add SYS_RESOURCE)"}
	case !initial:
		return verdict{Warning, "only in a user namespace" + cope, "run nodeimg and the Docker Engine in the initial user namespace"}
	}
	return verdict{OK, "to be had", ""}
}
