package cache

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/gofrs/flock"
)

// TempDir makes a folder in the cache, on the same file system as the blobs, for one piece of work. The caller must call release, which
// removes it. What processes that were killed left behind is removed on the way: a folder lives as long as somebody holds its lock.
func (c *Cache) TempDir(prefix string) (dir string, release func(), err error) {
	root, err := c.Dir("tmp")
	if err != nil {
		return "", nil, err
	}
	sweep(root)
	// Somebody's sweep may take a lock file between its creation and the lock.
	for range tempDirTries {
		lock, err := newLock(root, prefix)
		if err != nil {
			return "", nil, fmt.Errorf("creating a temporary folder in the cache: %w", err)
		}
		if lock == nil {
			continue
		}
		dir = strings.TrimSuffix(lock.Path(), ".lock")
		if err := os.Mkdir(dir, 0o755); err != nil {
			_ = os.Remove(lock.Path())
			_ = lock.Close()
			return "", nil, fmt.Errorf("creating a temporary folder in the cache: %w", err)
		}
		return dir, func() {
			_ = os.RemoveAll(dir)
			_ = os.Remove(lock.Path())
			_ = lock.Close()
		}, nil
	}
	return "", nil, fmt.Errorf("creating a temporary folder in the cache: something removes every new file in %s", root)
}

// tempDirTries bounds how often a race for a new lock file is lost; more than once in a row is rare.
const tempDirTries = 100

// newLock makes and locks a file in root; nil without an error means that somebody's sweep was faster.
func newLock(root, prefix string) (*flock.Flock, error) {
	file, err := os.CreateTemp(root, prefix+"-*.lock")
	if err != nil {
		return nil, err
	}
	defer file.Close()
	lock := flock.New(file.Name())
	held, err := lock.TryLock()
	if err != nil {
		return nil, err
	}
	made, err := file.Stat()
	if err != nil {
		_ = lock.Close()
		return nil, err
	}
	if there, err := os.Stat(file.Name()); !held || err != nil || !os.SameFile(made, there) {
		// Whatever lies there now has no owner, so that the next sweep takes it.
		_ = lock.Close()
		return nil, nil
	}
	return lock, nil
}

// sweep removes folders whose owner is gone. The lock file is made first, so that every folder has one.
func sweep(root string) {
	entries, err := os.ReadDir(root)
	if err != nil {
		return
	}
	for _, entry := range entries {
		name, ok := strings.CutSuffix(entry.Name(), ".lock")
		if !ok {
			continue
		}
		lock := flock.New(filepath.Join(root, entry.Name()))
		if held, err := lock.TryLock(); err != nil || !held {
			continue
		}
		if err := os.RemoveAll(filepath.Join(root, name)); err == nil || errors.Is(err, fs.ErrNotExist) {
			_ = os.Remove(lock.Path())
		}
		_ = lock.Close()
	}
}
