package engine

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/moby/sys/mountinfo"
)

// cgroupLimit is how long processes that were killed may take to leave their cgroups.
const cgroupLimit = 20 * time.Second

// cgroupName is the cgroup, in every hierarchy, below which the containers of the Engine in dir are.
func cgroupName(dir string) string { return "nodeimg-test-" + filepath.Base(dir) }

// removeCgroups removes the cgroup and those below it from every hierarchy, waiting for processes that are still ending.
func removeCgroups(name string) error {
	hierarchies, err := mountinfo.GetMounts(mountinfo.FSTypeFilter("cgroup", "cgroup2"))
	if err != nil {
		return fmt.Errorf("finding the cgroup hierarchies: %w", err)
	}
	var errs []error
	for _, hierarchy := range hierarchies {
		deadline := time.Now().Add(cgroupLimit)
		for {
			err := removeTree(filepath.Join(hierarchy.Mountpoint, name))
			if err == nil {
				break
			}
			if time.Now().After(deadline) {
				errs = append(errs, fmt.Errorf("removing cgroups: %w", err))
				break
			}
			time.Sleep(50 * time.Millisecond)
		}
	}
	return errors.Join(errs...)
}

// removeTree removes a cgroup after those below it. The files in it vanish with it and cannot be unlinked.
func removeTree(dir string) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, entry := range entries {
		if entry.IsDir() {
			if err := removeTree(filepath.Join(dir, entry.Name())); err != nil {
				return err
			}
		}
	}
	if err := os.Remove(dir); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}
