package publish

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// stagingInfix is between the destination's name and random characters in the name of the folder where an output is prepared.
const stagingInfix = ".tmp-"

// staging is a folder beside a destination, on the same file system, where an output is prepared. A lock on it tells other processes
// that its owner lives; what a killed process left is removed by the next one that writes to the same destination.
type staging struct {
	dest string
	dir  string
	lock *os.File
}

// newStaging creates the destination's parent and a staging folder in it. The caller must call remove.
func newStaging(dest string) (*staging, error) {
	// A link stays a link: what it points at is replaced.
	if target, err := filepath.EvalSymlinks(dest); err == nil {
		dest = target
	}
	parent := filepath.Dir(dest)
	if err := os.MkdirAll(parent, 0o755); err != nil {
		return nil, err
	}
	removeStale(dest)
	for {
		dir, err := os.MkdirTemp(parent, filepath.Base(dest)+stagingInfix)
		if err != nil {
			return nil, err
		}
		lock, err := lockFolder(dir)
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.EWOULDBLOCK) {
			// Another process took it for a stale one before it was locked.
			continue
		}
		if err != nil {
			_ = os.Remove(dir)
			return nil, err
		}
		return &staging{dest: dest, dir: dir, lock: lock}, nil
	}
}

// lockFolder locks the folder without waiting, and fails with fs.ErrNotExist when it is gone by then.
func lockFolder(dir string) (*os.File, error) {
	f, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		_ = f.Close()
		return nil, fmt.Errorf("locking %s: %w", dir, err)
	}
	if _, err := os.Stat(dir); err != nil {
		_ = f.Close()
		return nil, err
	}
	return f, nil
}

// removeStale removes the staging folders of processes that no longer live.
func removeStale(dest string) {
	entries, err := os.ReadDir(filepath.Dir(dest))
	if err != nil {
		return
	}
	for _, entry := range entries {
		if !entry.IsDir() || !strings.HasPrefix(entry.Name(), filepath.Base(dest)+stagingInfix) {
			continue
		}
		dir := filepath.Join(filepath.Dir(dest), entry.Name())
		if lock, err := lockFolder(dir); err == nil {
			_ = os.RemoveAll(dir)
			_ = lock.Close()
		}
	}
}

// path is where the output is prepared.
func (s *staging) path() string { return filepath.Join(s.dir, "new") }

// remove removes the staging folder with everything in it.
func (s *staging) remove() {
	_ = os.RemoveAll(s.dir)
	_ = s.lock.Close()
}

// commitFile moves the prepared file to the destination, replacing a file there.
func (s *staging) commitFile() error {
	return os.Rename(s.path(), s.dest)
}

// commitFolder moves the prepared folder to the destination. A layout there is exchanged for the new one in one step where the file
// system can do that, and in two steps elsewhere.
func (s *staging) commitFolder() error {
	if err := checkLayoutDestination(s.dest); err != nil {
		return err
	}
	err := unix.Renameat2(unix.AT_FDCWD, s.path(), unix.AT_FDCWD, s.dest, unix.RENAME_EXCHANGE)
	switch {
	case err == nil:
		return nil
	case errors.Is(err, unix.ENOENT):
		return os.Rename(s.path(), s.dest)
	case !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOSYS):
		return fmt.Errorf("replacing %s: %w", s.dest, err)
	}
	old := filepath.Join(s.dir, "old")
	if err := os.Rename(s.dest, old); err != nil {
		return err
	}
	if err := os.Rename(s.path(), s.dest); err != nil {
		return errors.Join(err, os.Rename(old, s.dest))
	}
	return nil
}

// copyPiece is how many bytes are copied between two looks at the context.
const copyPiece = 32 << 20

// copyAll copies src to dst in pieces, telling count about each, until src ends or ctx does. Between two files the kernel copies, and
// shares the blocks where the file system can.
func copyAll(ctx context.Context, dst io.Writer, src io.Reader, count func(int64)) (int64, error) {
	var total int64
	for {
		if err := context.Cause(ctx); err != nil {
			return total, err
		}
		n, err := io.CopyN(dst, src, copyPiece)
		total += n
		count(n)
		if errors.Is(err, io.EOF) {
			return total, nil
		}
		if err != nil {
			return total, err
		}
	}
}
