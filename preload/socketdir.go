package preload

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"
)

// socketDirPattern names the brokers' folders in the directory for temporary files.
const socketDirPattern = "nodeimg-broker-*"

// socketDir makes the folder of a broker's socket, which only this user may enter. The caller must call release, which removes it. A
// folder lives as long as somebody holds its lock: what killed processes left is removed on the way.
//
// It is not below the cache, because the path of a unix socket has at most 107 bytes.
func socketDir() (dir string, release func(), err error) {
	sweepSocketDirs(os.TempDir())
	// Somebody's sweep may take the folder between its creation and the lock; who loses that race again and again is not alone on a
	// busy machine but in a broken one.
	for range 100 {
		dir, err := os.MkdirTemp("", socketDirPattern)
		if err != nil {
			return "", nil, err
		}
		lock, err := lockDir(dir)
		if err == nil {
			return dir, func() {
				_ = os.RemoveAll(dir)
				_ = lock.Close()
			}, nil
		}
		_ = os.RemoveAll(dir)
		if !errors.Is(err, errTaken) {
			return "", nil, err
		}
	}
	return "", nil, fmt.Errorf("locking a folder in %s: something removes every new one", os.TempDir())
}

// errTaken says that another process holds a folder's lock, or has removed the folder.
var errTaken = errors.New("in use")

// lockDir locks a folder without waiting. The lock lasts until the file is closed or the process ends.
func lockDir(dir string) (*os.File, error) {
	f, err := os.OpenFile(dir, unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
	if errors.Is(err, os.ErrNotExist) {
		return nil, errTaken
	}
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		_ = f.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, errTaken
		}
		return nil, fmt.Errorf("locking %s: %w", dir, err)
	}
	held, err := f.Stat()
	if err != nil {
		_ = f.Close()
		return nil, err
	}
	if there, err := os.Lstat(dir); err != nil || !os.SameFile(held, there) {
		_ = f.Close()
		return nil, errTaken
	}
	return f, nil
}

// sweepSocketDirs removes this user's folders whose owner is gone.
func sweepSocketDirs(root string) {
	found, err := filepath.Glob(filepath.Join(root, socketDirPattern))
	if err != nil {
		return
	}
	for _, dir := range found {
		info, err := os.Lstat(dir)
		if err != nil || !info.IsDir() {
			continue
		}
		// Everybody may make folders here, also ones of this name.
		if owner, ok := info.Sys().(*syscall.Stat_t); !ok || int(owner.Uid) != os.Geteuid() {
			continue
		}
		lock, err := lockDir(dir)
		if err != nil {
			continue
		}
		_ = os.RemoveAll(dir)
		_ = lock.Close()
	}
}
