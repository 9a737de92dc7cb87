package cli

import (
	"fmt"
	"io/fs"
	"maps"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/gofrs/flock"
	"golang.org/x/sys/unix"
)

// patience bounds the wait for a condition that has to become true by itself.
const patience = 30 * time.Second

// state is what of a machine nodeimg could change: each thing as one line.
type state map[string]bool

// machine looks at what this process and its descendants have: processes, mounts, cgroups, network links, temporary files, and what
// lies in /run, which is only theirs.
func machine() (state, error) {
	found := state{}
	add := func(format string, args ...any) { found[fmt.Sprintf(format, args...)] = true }
	descendants, err := descendants()
	if err != nil {
		return nil, err
	}
	for pid, name := range descendants {
		add("process %d %s", pid, name)
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	for line := range strings.Lines(string(mounts)) {
		// proc(5): the fifth field is the mount point, the rest holds numbers that say nothing.
		add("mount %s", strings.Fields(line)[4])
	}
	links, err := net.Interfaces()
	if err != nil {
		return nil, err
	}
	for _, link := range links {
		// Docker Engines of other tests come and go with theirs.
		if !slices.ContainsFunc([]string{"veth", "br-", "docker"}, func(prefix string) bool { return strings.HasPrefix(link.Name, prefix) }) {
			add("network link %s", link.Name)
		}
	}
	for _, root := range []string{temporary, "/run"} {
		err := filepath.WalkDir(root, func(path string, _ fs.DirEntry, err error) error {
			// These folders of the OCI runtime and of mount(8) stay, as they do on every host that has these programs.
			if err == nil && path != root && path != "/run/runc" && path != "/run/mount" {
				add("file %s", path)
			}
			return nil
		})
		if err != nil {
			return nil, err
		}
	}
	cgroups, err := emptyCgroups()
	if err != nil {
		return nil, err
	}
	for _, cgroup := range cgroups {
		add("cgroup %s", cgroup)
	}
	return found, nil
}

// leftovers waits until the machine is as before and returns what is not, if that takes too long.
func leftovers(before state) []string {
	for deadline := time.Now().Add(patience); ; time.Sleep(50 * time.Millisecond) {
		now, err := machine()
		if err != nil {
			return []string{err.Error()}
		}
		var left []string
		for _, line := range slices.Sorted(maps.Keys(now)) {
			if !before[line] {
				left = append(left, "new: "+line)
			}
		}
		for _, line := range slices.Sorted(maps.Keys(before)) {
			// Cgroups that somebody else had left may go at any time, and with other tests so may network links.
			if !now[line] && !strings.HasPrefix(line, "cgroup ") && !strings.HasPrefix(line, "network ") {
				left = append(left, "gone: "+line)
			}
		}
		if len(left) == 0 || time.Now().After(deadline) {
			return left
		}
	}
}

// descendants are the running processes below this one. It is the reaper of those whose parents died.
func descendants() (map[int]string, error) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, err
	}
	parents, names := map[int]int{}, map[int]string{}
	for _, entry := range entries {
		pid, err := strconv.Atoi(entry.Name())
		if err != nil {
			continue
		}
		// Processes come and go while this looks at them.
		stat, err := os.ReadFile(filepath.Join("/proc", entry.Name(), "stat"))
		if err != nil {
			continue
		}
		// proc(5): pid (name) state ppid; the name may hold anything.
		_, rest, _ := strings.Cut(string(stat), "(")
		end := strings.LastIndex(rest, ")")
		fields := strings.Fields(rest[end+1:])
		if fields[0] == "Z" {
			continue
		}
		parents[pid], _ = strconv.Atoi(fields[1])
		names[pid] = rest[:end]
	}
	self := os.Getpid()
	found := map[int]string{}
	for pid := range parents {
		for ancestor := parents[pid]; ancestor != 0; ancestor = parents[ancestor] {
			if ancestor == self {
				found[pid] = names[pid]
				break
			}
		}
	}
	return found, nil
}

// emptyCgroups are the cgroups of builders in which no process is; those with processes are somebody's. A builder's cgroup is named by a
// hexadecimal number, that of a test's Docker Engine is not.
func emptyCgroups() ([]string, error) {
	var found []string
	for _, pattern := range []string{"/sys/fs/cgroup/nodeimg-[0-9a-f]*", "/sys/fs/cgroup/*/nodeimg-[0-9a-f]*"} {
		dirs, err := filepath.Glob(pattern)
		if err != nil {
			return nil, err
		}
		for _, dir := range dirs {
			used := false
			_ = filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
				if err == nil && entry.Name() == "cgroup.procs" {
					processes, _ := os.ReadFile(path)
					used = used || len(processes) > 0
				}
				return nil
			})
			if !used {
				found = append(found, dir)
			}
		}
	}
	return found, nil
}

// free reports whether nobody holds the lock of a temporary folder in the cache.
func free(lockFile string) bool {
	lock := flock.New(lockFile, flock.SetFlag(unix.O_RDONLY))
	defer lock.Close()
	held, err := lock.TryRLock()
	return err == nil && held
}

func indent(lines []string) string { return "  " + strings.Join(lines, "\n  ") }
