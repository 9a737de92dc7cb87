package doctor

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// What is enough for clusters of a few nodes with many pods; below it, pods fail with "too many open files".
// See https://kind.sigs.k8s.io/docs/user/known-issues/#pod-errors-due-to-too-many-open-files.
const (
	inotifyInstances = 512
	inotifyWatches   = 524288
)

// keysWanted is what Sysbox's own sysctl.d file sets. It reckons with 35 keys, 23 for each worker and 2 for each pod; Debian's and
// Ubuntu's 200 are too few for ten nodes.
const keysWanted = 20000

// readNumber reads a file of /proc/sys with one number.
func readNumber(path string) (int, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return 0, err
	}
	number, err := strconv.Atoi(string(bytes.TrimSpace(text)))
	if err != nil {
		return 0, fmt.Errorf("reading %s: %w", path, err)
	}
	return number, nil
}

// readNumbers reads several of them.
func readNumbers(paths ...string) ([]int, error) {
	numbers := make([]int, len(paths))
	var errs []error
	for i, path := range paths {
		var err error
		numbers[i], err = readNumber(path)
		errs = append(errs, err)
	}
	return numbers, errors.Join(errs...)
}

// unreadable is the verdict when the kernel does not tell.
func unreadable(err error) verdict {
	return verdict{Unknown, strings.ReplaceAll(err.Error(), "\n", "; "), "run nodeimg doctor on the host itself, with /proc and /sys mounted"}
}

func checkInotify(context.Context, *host) verdict {
	got, err := readNumbers("/proc/sys/fs/inotify/max_user_instances", "/proc/sys/fs/inotify/max_user_watches")
	if err != nil {
		return unreadable(err)
	}
	return judgeInotify(got[0], got[1])
}

func judgeInotify(instances, watches int) verdict {
	found := fmt.Sprintf("max_user_instances %d, max_user_watches %d", instances, watches)
	var settings []string
	if instances < inotifyInstances {
		settings = append(settings, fmt.Sprintf("fs.inotify.max_user_instances=%d", inotifyInstances))
	}
	if watches < inotifyWatches {
		settings = append(settings, fmt.Sprintf("fs.inotify.max_user_watches=%d", inotifyWatches))
	}
	if len(settings) > 0 {
		return verdict{Warning, found, "clusters of several nodes run out of them: " + sysctl(settings...)}
	}
	return verdict{OK, found, ""}
}

// sysctl is the command that sets a kernel parameter until the next boot, and where it stays.
func sysctl(settings ...string) string {
	return "sysctl -w " + strings.Join(settings, " ") + ", and the same in a file in /etc/sysctl.d"
}

func checkKeys(_ context.Context, h *host) verdict {
	got, err := readNumbers("/proc/sys/kernel/keys/maxkeys", "/proc/sys/kernel/keys/root_maxkeys")
	if err != nil {
		return unreadable(err)
	}
	return judgeKeys(got[0], got[1], h.hasSysbox())
}

// judgeKeys looks at the keys that a user may have, one for each container at least. Under Sysbox the containers of a node belong to a user
// who is not root; without it, to root.
func judgeKeys(maxKeys, rootMaxKeys int, sysbox bool) verdict {
	found := fmt.Sprintf("maxkeys %d, root_maxkeys %d", maxKeys, rootMaxKeys)
	switch {
	case rootMaxKeys < keysWanted:
		return verdict{Warning, found, fmt.Sprintf("many containers run out of them: %s", sysctl(fmt.Sprintf("kernel.keys.root_maxkeys=%d", keysWanted)))}
	case maxKeys < keysWanted && sysbox:
		return verdict{Warning, found, fmt.Sprintf("nodes under Sysbox run out of them: %s", sysctl(fmt.Sprintf("kernel.keys.maxkeys=%d", keysWanted)))}
	case maxKeys < keysWanted:
		return verdict{OK, found + "; the first is too low only for nodes under Sysbox", ""}
	}
	return verdict{OK, found, ""}
}

func checkConntrack(context.Context, *host) verdict {
	limit, err := readNumber("/proc/sys/net/netfilter/nf_conntrack_max")
	if err == nil {
		return verdict{OK, fmt.Sprintf("nf_conntrack_max %d", limit), ""}
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return unreadable(err)
	}
	release, err := kernelRelease()
	if err != nil {
		return unreadable(err)
	}
	return judgeConntrack(filepath.Join("/lib/modules", release))
}

// judgeConntrack looks for the module of a kernel that has not loaded it, in the folder of the kernel's modules.
func judgeConntrack(modules string) verdict {
	found := slices.ContainsFunc([]string{"modules.dep", "modules.builtin"}, func(name string) bool {
		text, err := os.ReadFile(filepath.Join(modules, name))
		return err == nil && bytes.Contains(text, []byte("/nf_conntrack.ko"))
	})
	if found {
		return verdict{OK, "not loaded yet, but the kernel has it; the Docker Engine loads it", ""}
	}
	return verdict{Warning, "not loaded, and not among the modules in " + modules, "modprobe nf_conntrack; services of a cluster need it"}
}
