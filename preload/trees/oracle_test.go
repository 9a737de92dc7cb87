package trees_test

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	containerd "github.com/containerd/containerd/v2/pkg/archive"
	"golang.org/x/sys/unix"

	"github.com/nodeimg/nodeimg/internal/cache"
	"github.com/nodeimg/nodeimg/preload/trees"
)

// scratch is a tmpfs, on which overlayfs can lay its directories.
func scratch(t testing.TB) string {
	t.Helper()
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=1g"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, 0); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// unpack has containerd unpack the layers as it does for the overlayfs snapshotter (core/diff/apply) and returns the upper directories,
// topmost first.
func unpack(t testing.TB, root string, archives [][]byte) ([]string, error) {
	t.Helper()
	var uppers []string
	for i, archive := range archives {
		upper := filepath.Join(root, strconv.Itoa(i))
		if err := os.Mkdir(upper, 0o755); err != nil {
			t.Fatal(err)
		}
		var options []containerd.ApplyOpt
		if i > 0 {
			options = append(options, containerd.WithConvertWhiteout(containerd.OverlayConvertWhiteout), containerd.WithParents(uppers))
		}
		if _, err := containerd.Apply(t.Context(), upper, bytes.NewReader(archive), options...); err != nil {
			return nil, err
		}
		uppers = append([]string{upper}, uppers...)
	}
	return uppers, nil
}

// mount mounts what a container gets and returns what it sees.
func mount(t testing.TB, root string, lower []string) map[string]string {
	t.Helper()
	for _, name := range []string{"upper", "work", "merged"} {
		if err := os.Mkdir(filepath.Join(root, name), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	merged := filepath.Join(root, "merged")
	fd, err := unix.Fsopen("overlay", 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	set := func(key, value string) {
		if err := unix.FsconfigSetString(fd, key, value); err != nil {
			t.Fatalf("%s=%s: %v", key, value, err)
		}
	}
	for _, dir := range lower {
		set("lowerdir+", dir)
	}
	set("upperdir", filepath.Join(root, "upper"))
	set("workdir", filepath.Join(root, "work"))
	set("index", "off")
	if err := unix.FsconfigCreate(fd); err != nil {
		t.Fatal(err)
	}
	mountFD, err := unix.Fsmount(fd, 0, 0)
	if err != nil {
		t.Fatal(err)
	}
	err = unix.MoveMount(mountFD, "", unix.AT_FDCWD, merged, unix.MOVE_MOUNT_F_EMPTY_PATH)
	// A descriptor keeps the mount busy.
	_ = unix.Close(mountFD)
	if err != nil {
		t.Fatal(err)
	}
	seen := dump(t, merged)
	if err := unix.Unmount(merged, 0); err != nil {
		t.Fatal(err)
	}
	return seen
}

// now stands for the time of a directory that containerd made without having a time for it.
const now = "now"

// dump describes every file below the directory.
func dump(t testing.TB, root string) map[string]string {
	t.Helper()
	seen := map[string]string{}
	var walk func(path string)
	walk = func(path string) {
		var st unix.Stat_t
		full := root + path
		err := unix.Lstat(full, &st)
		if errors.Is(err, unix.ENOENT) {
			// overlayfs lists the whiteouts of a directory that is in one layer only.
			return
		}
		if err != nil {
			t.Fatal(err)
		}
		mtime := fmt.Sprintf("%d.%09d", st.Mtim.Sec, st.Mtim.Nsec)
		text := fmt.Sprintf("mode=%o uid=%d gid=%d", st.Mode, st.Uid, st.Gid)
		switch st.Mode & unix.S_IFMT {
		case unix.S_IFDIR:
			if time.Since(time.Unix(st.Mtim.Unix())) < 24*time.Hour || path == "" {
				mtime = now
			}
		case unix.S_IFREG:
			content, err := os.ReadFile(full)
			if err != nil {
				t.Fatal(err)
			}
			text += fmt.Sprintf(" nlink=%d size=%d content=%x", st.Nlink, st.Size, sha256.Sum256(content))
		case unix.S_IFLNK:
			target, err := os.Readlink(full)
			if err != nil {
				t.Fatal(err)
			}
			text += fmt.Sprintf(" nlink=%d target=%q", st.Nlink, target)
		default:
			text += fmt.Sprintf(" nlink=%d device=%d:%d", st.Nlink, unix.Major(st.Rdev), unix.Minor(st.Rdev))
		}
		seen[path] = text + xattrs(t, full) + " mtime=" + mtime
		if st.Mode&unix.S_IFMT != unix.S_IFDIR {
			return
		}
		entries, err := os.ReadDir(full)
		if err != nil {
			t.Fatal(err)
		}
		for _, entry := range entries {
			walk(path + "/" + entry.Name())
		}
	}
	walk("")
	return seen
}

func xattrs(t testing.TB, path string) string {
	list := make([]byte, 64<<10)
	n, err := unix.Llistxattr(path, list)
	if err != nil {
		t.Fatal(err)
	}
	names := strings.Split(strings.TrimSuffix(string(list[:n]), "\x00"), "\x00")
	slices.Sort(names)
	text := ""
	for _, name := range names {
		if name == "" {
			continue
		}
		value := make([]byte, 64<<10)
		n, err := unix.Lgetxattr(path, name, value)
		if err != nil {
			t.Fatal(err)
		}
		text += fmt.Sprintf(" %s=%q", name, value[:n])
	}
	return text
}

// compare says where the trees that two containers see differ.
func compare(want, got map[string]string) []string {
	var differences []string
	all := maps.Clone(want)
	maps.Copy(all, got)
	for _, path := range slices.Sorted(maps.Keys(all)) {
		w, g := want[path], got[path]
		if before, ok := strings.CutSuffix(w, " mtime="+now); ok {
			w = before
			g, _, _ = strings.Cut(g, " mtime=")
		}
		if w != g {
			differences = append(differences, fmt.Sprintf("%q\n\twant %s\n\tgot  %s", path, w, g))
		}
	}
	return differences
}

// extract has containerd unpack the trees as part of a node image and returns the directories that the image's snapshot consists of,
// topmost first.
func extract(t testing.TB, root string, list []*trees.Tree) []string {
	t.Helper()
	if _, err := containerd.Apply(t.Context(), root, bytes.NewReader(write(t, list))); err != nil {
		t.Fatalf("unpacking the node image: %v", err)
	}
	return lowers(t, root, list)
}

func lowers(t testing.TB, root string, list []*trees.Tree) []string {
	t.Helper()
	var dirs []string
	for i, tree := range slices.Backward(list) {
		dirs = append(dirs, filepath.Join(root, folder(tree.ChainID), "fs"))
		if (tree.Parent == "") != (i == 0) {
			t.Fatalf("tree %d of %d has the parent %q", i, len(list), tree.Parent)
		}
	}
	return dirs
}

// oracle compares our trees of the layers with containerd's own.
func oracle(t testing.TB, archives [][]byte) error {
	t.Helper()
	root := scratch(t)
	// A cache in memory does not wait for a disk.
	c, err := cache.Open(filepath.Join(root, "cache"))
	if err != nil {
		t.Fatal(err)
	}
	var layers []trees.Layer
	for _, archive := range archives {
		layers = append(layers, put(t, c, archive))
	}
	list, planErr := trees.Plan(t.Context(), c, layers)
	for _, name := range []string{"theirs", "ours"} {
		if err := os.Mkdir(filepath.Join(root, name), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	old := syscall.Umask(0o022)
	defer syscall.Umask(old)
	uppers, err := unpack(t, filepath.Join(root, "theirs"), archives)
	if err != nil || planErr != nil {
		return errors.Join(wrap("containerd", err), wrap("plan", planErr))
	}
	want := mount(t, filepath.Join(root, "theirs"), uppers)
	got := mount(t, filepath.Join(root, "ours"), extract(t, filepath.Join(root, "ours"), list))
	if differences := compare(want, got); len(differences) > 0 {
		t.Errorf("a container sees something else:\n%s", strings.Join(differences, "\n"))
	}
	return nil
}

func wrap(who string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s: %w", who, err)
}
