package tree

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"
)

// types are the names of file types (inode(7)).
var types = map[uint32]string{
	unix.S_IFDIR: "dir", unix.S_IFREG: "file", unix.S_IFLNK: "symlink", unix.S_IFIFO: "fifo", unix.S_IFSOCK: "socket",
	unix.S_IFCHR: "char", unix.S_IFBLK: "block",
}

// Walk calls visit for the folder root and everything in it, without entering what is mounted there. It changes the working directory,
// because paths in an image may be as long as the kernel takes.
func Walk(root string, visit func(Entry) error) error {
	root, err := filepath.Abs(root)
	if err != nil {
		return err
	}
	mounts, err := mountinfo.GetMounts(nil)
	if err != nil {
		return fmt.Errorf("listing what is mounted: %w", err)
	}
	mounted := map[string]bool{}
	for _, m := range mounts {
		if relative, err := filepath.Rel(root, m.Mountpoint); err == nil && relative != "." && filepath.IsLocal(relative) {
			mounted[relative] = true
		}
	}
	if err := os.Chdir(root); err != nil {
		return err
	}
	return walk(".", mounted, visit)
}

func walk(path string, mounted map[string]bool, visit func(Entry) error) error {
	e, err := read(path)
	if errors.Is(err, fs.ErrNotExist) && path != "." {
		return visit(Entry{Path: quote(filepath.Join("/", path)), Type: Phantom})
	}
	if err != nil {
		return err
	}
	e.Mount = mounted[path]
	if err := visit(e); err != nil {
		return err
	}
	if e.Type != "dir" || e.Mount {
		return nil
	}
	children, err := os.ReadDir(path)
	if err != nil {
		return err
	}
	for _, child := range children {
		if err := walk(filepath.Join(path, child.Name()), mounted, visit); err != nil {
			return err
		}
	}
	return nil
}

// read describes one path.
func read(path string) (Entry, error) {
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil {
		return Entry{}, &os.PathError{Op: "lstat", Path: path, Err: err}
	}
	e := Entry{
		Path: quote(filepath.Join("/", path)), Type: types[st.Mode&unix.S_IFMT], Mode: st.Mode & 0o7777, UID: st.Uid, GID: st.Gid,
		Seconds: st.Mtim.Sec, Nanoseconds: st.Mtim.Nsec,
	}
	if e.Type != "dir" {
		e.Size, e.Links = st.Size, st.Nlink
	}
	var err error
	switch e.Type {
	case "file":
		e.Digest, err = digest(path)
	case "symlink":
		var target string
		target, err = os.Readlink(path)
		e.Target = quote(target)
	case "char", "block":
		e.Device = fmt.Sprintf("%d:%d", unix.Major(st.Rdev), unix.Minor(st.Rdev))
	}
	if err != nil {
		return Entry{}, err
	}
	e.Xattrs, err = xattrs(path)
	return e, err
}

func digest(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	hash := sha256.New()
	if _, err := io.Copy(hash, f); err != nil {
		return "", err
	}
	return hex.EncodeToString(hash.Sum(nil)), nil
}

// listLimit is the most that the kernel gives for names or for a value (XATTR_LIST_MAX, XATTR_SIZE_MAX in limits.h).
const listLimit = 64 << 10

func xattrs(path string) (map[string]string, error) {
	buffer := make([]byte, listLimit)
	n, err := unix.Llistxattr(path, buffer)
	if err != nil {
		return nil, &os.PathError{Op: "llistxattr", Path: path, Err: err}
	}
	if n == 0 {
		return nil, nil
	}
	found := map[string]string{}
	for _, name := range bytes.Split(bytes.TrimSuffix(buffer[:n], []byte{0}), []byte{0}) {
		value := make([]byte, listLimit)
		n, err := unix.Lgetxattr(path, string(name), value)
		if err != nil {
			return nil, &os.PathError{Op: "lgetxattr " + string(name), Path: path, Err: err}
		}
		found[quote(string(name))] = quote(string(value[:n]))
	}
	return found, nil
}

// quote makes any bytes readable text, and different bytes different texts; text without oddities stays as it is.
func quote(s string) string {
	quoted := strconv.QuoteToASCII(s)
	return quoted[1 : len(quoted)-1]
}
