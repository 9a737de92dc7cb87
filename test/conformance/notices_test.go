package conformance

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nodeimg/nodeimg/test/conformance/tree"
)

// TestNotices spoils mounted images one thing at a time and holds that the comparison finds exactly that: it is able to fail.
func TestNotices(t *testing.T) {
	known := mustKnow(t)
	for _, c := range []struct {
		name, row string
		spoil     func(dir string) error
		// want are the differences, without those of the folders' times.
		want []string
	}{
		{"nothing", "capabilities", func(string) error { return nil }, nil},
		{"lost whiteout", "whiteout-file", func(dir string) error {
			return os.WriteFile(filepath.Join(dir, "d/old"), []byte("old"), 0o644)
		}, []string{"/d/old: a file that must not be there"}},
		{"lost file", "whiteout-file", func(dir string) error { return os.Remove(filepath.Join(dir, "d/kept")) },
			[]string{"/d/kept: missing, want a file"}},
		{"lost capability", "capabilities", func(dir string) error {
			return unix.Removexattr(filepath.Join(dir, "ping"), "security.capability")
		}, []string{"/ping: xattr security.capability is missing"}},
		{"changed xattr", "user-xattrs", func(dir string) error {
			// The last of its bytes, behind what messages show.
			return unix.Setxattr(filepath.Join(dir, "f"), "user.long", []byte(strings.Repeat("x", 1499)+"y"), 0)
		}, []string{"/f: xattr user.long is "}},
		{"added xattr", "user-xattrs", func(dir string) error {
			return unix.Setxattr(filepath.Join(dir, "t2"), "user.more", nil, 0)
		}, []string{"/t2: xattr user.more must not be there"}},
		{"lost hard link", "hard-links-with-other-attributes", func(dir string) error {
			b, err := os.ReadFile(filepath.Join(dir, "b"))
			if err != nil {
				return err
			}
			return replaceLike(filepath.Join(dir, "b"), b)
		}, []string{"/b: link count is 1, want 2"}},
		{"added hard link", "capabilities", func(dir string) error {
			return os.Link(filepath.Join(dir, "ping"), filepath.Join(dir, "pong"))
		}, []string{"/ping: link count is 2, want 1", "/pong: a file that must not be there"}},
		{"changed content", "capabilities", func(dir string) error {
			return keepingTime(filepath.Join(dir, "seed"), func(path string) error {
				return os.WriteFile(path, []byte(strings.Repeat("0", 64)), 0o644)
			})
		}, []string{"/seed: content is "}},
		{"lost setuid", "special-modes", func(dir string) error { return os.Chmod(filepath.Join(dir, "setuid"), 0o755) },
			[]string{"/setuid: mode is 0755, want 4755"}},
		{"changed owner", "large-ids", func(dir string) error { return os.Lchown(filepath.Join(dir, "link"), 34464, 100001) },
			[]string{"/link: uid is 34464, want 100000"}},
		{"changed device", "devices", func(dir string) error {
			path := filepath.Join(dir, "loop")
			if err := os.Remove(path); err != nil {
				return err
			}
			if err := unix.Mknod(path, unix.S_IFBLK|0o660, int(unix.Mkdev(7, 1))); err != nil {
				return err
			}
			return like(path, unix.Stat_t{Mode: 0o4660, Mtim: unix.Timespec{Sec: modified.Unix()}})
		}, []string{"/loop: device is 7:1, want 7:0"}},
		{"changed type", "devices", func(dir string) error {
			path := filepath.Join(dir, "in/fifo")
			if err := os.Remove(path); err != nil {
				return err
			}
			return os.WriteFile(path, nil, 0o777)
		}, []string{"/in/fifo: type is file, want fifo"}},
		{"changed target", "names", func(dir string) error {
			path := filepath.Join(dir, "to-latin1")
			if err := os.Remove(path); err != nil {
				return err
			}
			if err := os.Symlink("\xe8", path); err != nil {
				return err
			}
			return like(path, unix.Stat_t{Mode: unix.S_IFLNK, Mtim: unix.Timespec{Sec: modified.Unix()}})
		}, []string{`/to-latin1: target is \xe8, want \xe9`}},
		{"changed time", "times", func(dir string) error {
			return os.Chtimes(filepath.Join(dir, "fraction"), time.Time{}, time.Unix(1600000000, 123456788))
		}, []string{"/fraction: modification time is 2020-09-13T12:26:40.123456788Z, want 2020-09-13T12:26:40.123456789Z"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			mountpoint := filepath.Join(work, "spoilt-"+strings.ReplaceAll(c.name, " ", "-"))
			r := row{name: c.row}
			unmount, err := known.daemon.mount(t.Context(), "overlayfs", known.host+"/"+r.path(fresh), mountpoint)
			if err != nil {
				t.Fatal(err)
			}
			defer unmount()
			if err := c.spoil(mountpoint); err != nil {
				t.Fatal(err)
			}
			got, err := dumpOf(t.Context(), mountpoint)
			if err != nil {
				t.Fatal(err)
			}
			want := known.rows[c.row].tree
			lines := slices.DeleteFunc(tree.Diff(want, got, known.options), func(line string) bool {
				path, what, _ := strings.Cut(line, ": ")
				return want[path].Type == "dir" && strings.HasPrefix(what, "modification time")
			})
			if !slices.EqualFunc(lines, c.want, strings.HasPrefix) {
				t.Errorf("the comparison says %q, want %q", lines, c.want)
			}
		})
	}
}

// replaceLike puts another inode with the same attributes in the place of the file at path.
func replaceLike(path string, content []byte) error {
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil {
		return err
	}
	value := make([]byte, 100)
	n, err := unix.Getxattr(path, "user.link", value)
	if err != nil {
		return err
	}
	if err := os.Remove(path); err != nil {
		return err
	}
	if err := os.WriteFile(path, content, 0o600); err != nil {
		return err
	}
	if err := unix.Setxattr(path, "user.link", value[:n], 0); err != nil {
		return err
	}
	return like(path, st)
}

// like gives the owner, the mode and the time of st to path.
func like(path string, st unix.Stat_t) error {
	if err := os.Lchown(path, int(st.Uid), int(st.Gid)); err != nil {
		return err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFLNK {
		if err := unix.Chmod(path, st.Mode&0o7777); err != nil {
			return err
		}
	}
	return unix.UtimesNanoAt(unix.AT_FDCWD, path, []unix.Timespec{st.Mtim, st.Mtim}, unix.AT_SYMLINK_NOFOLLOW)
}

// keepingTime calls change and gives path its modification time back.
func keepingTime(path string, change func(path string) error) error {
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil {
		return err
	}
	if err := change(path); err != nil {
		return err
	}
	return like(path, st)
}
