package child

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"
)

// cgroupPatience is how long removeCgroups waits for processes that are already killed to leave their cgroups.
const cgroupPatience = 2 * time.Second

// removeCgroups removes the cgroup name below the root of every mounted hierarchy, of either version, with everything in it. Cgroups
// that hold no process any more are all that is expected.
func removeCgroups(name string) error {
	name = filepath.Clean("/" + name)
	if name == "/" {
		return nil
	}
	mounts, err := mountinfo.GetMounts(func(m *mountinfo.Info) (skip, stop bool) {
		return m.FSType != "cgroup" && m.FSType != "cgroup2", false
	})
	if err != nil {
		return fmt.Errorf("finding cgroup hierarchies: %w", err)
	}
	deadline := time.Now().Add(cgroupPatience)
	var errs []error
	for _, m := range mounts {
		for {
			err := removeCgroup(filepath.Join(m.Mountpoint, name))
			if err == nil {
				break
			}
			if !errors.Is(err, unix.EBUSY) || time.Now().After(deadline) {
				errs = append(errs, fmt.Errorf("removing cgroup: %w", err))
				break
			}
			time.Sleep(10 * time.Millisecond)
		}
	}
	return errors.Join(errs...)
}

// removeCgroup removes one cgroup and those below it, deepest first. os.RemoveAll does not do: it would unlink the control files.
func removeCgroup(dir string) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, e := range entries {
		if e.IsDir() && !strings.HasPrefix(e.Name(), ".") {
			if err := removeCgroup(filepath.Join(dir, e.Name())); err != nil {
				return err
			}
		}
	}
	if err := os.Remove(dir); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// killCgroups kills every process in the cgroup name, and in those below it, of every mounted hierarchy.
func killCgroups(name string) {
	name = filepath.Clean("/" + name)
	mounts, err := mountinfo.GetMounts(func(m *mountinfo.Info) (skip, stop bool) {
		return m.FSType != "cgroup" && m.FSType != "cgroup2", false
	})
	if err != nil || name == "/" {
		return
	}
	deadline := time.Now().Add(cgroupPatience)
	for _, m := range mounts {
		// Processes may have been forked while the others were killed.
		for killCgroup(filepath.Join(m.Mountpoint, name)) > 0 && time.Now().Before(deadline) {
			time.Sleep(5 * time.Millisecond)
		}
	}
}

// killCgroup kills what is in a cgroup and returns how many processes were there.
func killCgroup(dir string) int {
	found := 0
	_ = filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.Name() != "cgroup.procs" {
			return nil
		}
		list, _ := os.ReadFile(path)
		for _, field := range strings.Fields(string(list)) {
			// Zero stands for a process of another namespace.
			if pid, err := strconv.Atoi(field); err == nil && pid > 1 {
				_ = unix.Kill(pid, unix.SIGKILL)
				found++
			}
		}
		return nil
	})
	return found
}
