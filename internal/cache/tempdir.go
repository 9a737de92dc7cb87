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
	file, err := os.CreateTemp(root, prefix+"-*.lock")
	if err != nil {
		return "", nil, fmt.Errorf("creating a temporary folder in the cache: %w", err)
	}
	_ = file.Close()
	lock := flock.New(file.Name())
	dir = strings.TrimSuffix(file.Name(), ".lock")
	// Somebody's sweep may have taken the file between its creation and the lock; then the folder would have no owner.
	if held, err := lock.TryLock(); err != nil || !held {
		return "", nil, errors.Join(fmt.Errorf("locking the temporary folder %s; try again", dir), err)
	}
	if err := os.Mkdir(dir, 0o755); err != nil {
		_ = lock.Close()
		return "", nil, fmt.Errorf("creating a temporary folder in the cache: %w", err)
	}
	return dir, func() {
		_ = os.RemoveAll(dir)
		_ = os.Remove(lock.Path())
		_ = lock.Close()
	}, nil
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
