package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"
)

// overlay is what a mounted overlayfs consists of.
type overlay struct {
	lower       []string
	upper, work string
}

// overlayAt returns the overlayfs that this process sees mounted at path; nil when it sees none.
func overlayAt(path string) (*overlay, error) {
	mounts, err := mountinfo.GetMounts(func(m *mountinfo.Info) (skip, stop bool) { return m.Mountpoint != path || m.FSType != "overlay", false })
	if err != nil || len(mounts) == 0 {
		return nil, err
	}
	var o overlay
	for option := range strings.SplitSeq(mounts[len(mounts)-1].VFSOptions, ",") {
		switch key, value, _ := strings.Cut(option, "="); key {
		case "lowerdir":
			o.lower = strings.Split(value, ":")
		case "upperdir":
			o.upper = value
		case "workdir":
			o.work = value
		}
	}
	return &o, nil
}

// mapRootfs mounts, below home, the overlayfs of rootfs once more, with its lower layers mapped and its upper one shifted.
func mapRootfs(rootfs, home string) (string, error) {
	o, err := overlayAt(rootfs)
	if err != nil {
		return "", err
	}
	if o == nil || o.upper == "" {
		return "", errors.New("it is no overlayfs that can be written to")
	}
	namespace, release, err := userNamespace()
	if err != nil {
		return "", err
	}
	defer release()
	var lower []string
	for i, dir := range o.lower {
		target := filepath.Join(home, "lower"+strconv.Itoa(i))
		if err := mountMapped(dir, target, namespace); err != nil {
			return "", fmt.Errorf("ID-mapping %s: %w", dir, err)
		}
		lower = append(lower, target)
	}
	if err := shift(o.upper, firstID); err != nil {
		return "", err
	}
	target := filepath.Join(home, "rootfs")
	return target, overlay{lower, o.upper, o.work}.mount(target)
}

// mount mounts it at the new folder target.
func (o overlay) mount(target string) error {
	if err := os.Mkdir(target, 0o755); err != nil {
		return err
	}
	return unix.Mount("overlay", target, "overlay", 0, fmt.Sprintf("lowerdir=%s,upperdir=%s,workdir=%s", strings.Join(o.lower, ":"), o.upper, o.work))
}

// mountMapped mounts dir at the new folder target with the mapping of the user namespace.
func mountMapped(dir, target string, namespace *os.File) error {
	if err := os.Mkdir(target, 0o755); err != nil {
		return err
	}
	tree, err := unix.OpenTree(unix.AT_FDCWD, dir, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
	if err != nil {
		return err
	}
	defer unix.Close(tree)
	attributes := &unix.MountAttr{Attr_set: unix.MOUNT_ATTR_IDMAP, Userns_fd: uint64(namespace.Fd())}
	if err := unix.MountSetattr(tree, "", unix.AT_EMPTY_PATH, attributes); err != nil {
		return err
	}
	return unix.MoveMount(tree, "", unix.AT_FDCWD, target, unix.MOVE_MOUNT_F_EMPTY_PATH)
}

// userNamespace returns a user namespace with the container's mapping.
func userNamespace() (_ *os.File, release func(), err error) {
	cmd := exec.Command("/proc/self/exe")
	cmd.Args = []string{"sysbox-userns"}
	mapping := []syscall.SysProcIDMap{{ContainerID: 0, HostID: firstID, Size: idCount}}
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWUSER, UidMappings: mapping, GidMappings: mapping}
	input, err := cmd.StdinPipe()
	if err != nil {
		return nil, nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, nil, err
	}
	end := func() {
		_ = input.Close()
		_ = cmd.Wait()
	}
	f, err := os.Open(fmt.Sprintf("/proc/%d/ns/user", cmd.Process.Pid))
	if err != nil {
		end()
		return nil, nil, err
	}
	return f, func() { _ = f.Close(); end() }, nil
}

// shift adds offset to the owner and the group of everything in dir, and of dir.
func shift(dir string, offset int) error {
	seen := map[uint64]bool{}
	return filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		var st unix.Stat_t
		if err := unix.Lstat(path, &st); err != nil {
			return err
		}
		if seen[st.Ino] {
			return nil
		}
		seen[st.Ino] = true
		if err := unix.Lchown(path, int(st.Uid)+offset, int(st.Gid)+offset); err != nil {
			return err
		}
		// chown takes away setuid, and capabilities, which shifting forgets too.
		if st.Mode&unix.S_IFMT != unix.S_IFLNK {
			return unix.Chmod(path, st.Mode&0o7777)
		}
		return nil
	})
}
