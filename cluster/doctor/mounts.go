package doctor

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"

	"github.com/containerd/containerd/v2/core/mount"
	"golang.org/x/sys/unix"
)

// scratch is where the mounts of an attempt lie, in a mount namespace of their own: a folder that every Linux has and that is not looked
// at meanwhile.
const scratch = "/sys"

// A user namespace to try with: 65536 users from shiftedTo on, as Sysbox and the Engine have them. Nothing need be reserved for that.
const shiftedTo = 1 << 20

const asRoot = "run nodeimg doctor as root, and not in a container without --privileged"

func checkUserNamespaces(context.Context, *host) verdict {
	limit, err := readNumber("/proc/sys/user/max_user_namespaces")
	if err != nil {
		return verdict{Warning, err.Error(), "boot a kernel with user namespaces (CONFIG_USER_NS), which Sysbox needs"}
	}
	return judgeUserNamespaces(limit, tryUserNamespace())
}

// userMap is a mapping that this process may make: of many users for root, of itself for others.
func userMap() (uids, gids string) {
	if os.Geteuid() == 0 {
		shifted := fmt.Sprintf("0:%d:65536", shiftedTo)
		return shifted, shifted
	}
	return fmt.Sprintf("0:%d:1", os.Geteuid()), fmt.Sprintf("0:%d:1", os.Getegid())
}

// tryUserNamespace makes a user namespace and lets go of it.
func tryUserNamespace() error {
	namespace, err := mount.GetUsernsFD(userMap())
	if err != nil {
		return err
	}
	return namespace.Close()
}

func judgeUserNamespaces(limit int, err error) verdict {
	found := fmt.Sprintf("max_user_namespaces %d", limit)
	switch {
	case limit == 0:
		return verdict{Warning, found, "nodes under Sysbox need them: " + sysctl("user.max_user_namespaces=65536")}
	case err != nil:
		return verdict{
			Warning, fmt.Sprintf("%s, but none can be made: %v", found, err),
			"nodes under Sysbox need them: sysctl -w kernel.unprivileged_userns_clone=1 where the kernel has that, and see what AppArmor and seccomp forbid",
		}
	}
	return verdict{OK, found + ", and one could be made", ""}
}

// folders are those that lie below overlays: the builder's and the Engine's, where they are known and on this host.
func (h *host) folders() []string {
	var all []string
	if h.cacheErr == nil {
		all = append(all, h.cache)
	}
	if h.local() {
		all = append(all, h.engine.Root)
	}
	return all
}

func checkOverlay(_ context.Context, h *host) verdict {
	return checkFolders(h.folders(), overlayOn,
		"load the module overlay (modprobe overlay), and keep the cache (NODEIMG_CACHE) and the Engine's data (\"data-root\") on ext4, xfs with ftype=1, or btrfs", Failed)
}

func checkIDMappedOverlay(_ context.Context, h *host) verdict {
	folders := h.folders()
	if h.local() {
		folders = []string{h.engine.Root}
	}
	return checkFolders(folders, idMappedOverlayOn,
		"boot a kernel of version 5.19 or newer, and keep the Engine's data (\"data-root\") on ext4, xfs or btrfs; without it Sysbox copies the image for every node", Warning)
}

// checkFolders tries something with the folders, or with the nearest ones above them that exist. The state is that of a failure.
func checkFolders(folders []string, try func(folder string) error, remedy string, state State) verdict {
	var worked []string
	for _, folder := range folders {
		place, err := existing(folder)
		if err == nil {
			err = apart(func() error { return try(place) })
		}
		switch {
		case errors.Is(err, unix.EPERM) || errors.Is(err, unix.EACCES):
			return verdict{Unknown, fmt.Sprintf("not tried on %s: %v", place, err), asRoot}
		case err != nil:
			return verdict{state, fmt.Sprintf("not on %s: %v", place, err), remedy}
		}
		worked = append(worked, place)
	}
	if len(worked) == 0 {
		return verdict{Unknown, "neither the cache nor the Engine's data is known", "see the checks of the two disks"}
	}
	return verdict{OK, "tried on " + strings.Join(worked, " and "), ""}
}

// apart runs f on a thread with a mount namespace of its own and an empty scratch in it; both end with the thread, whatever f has done.
func apart(f func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		if unix.Gettid() == os.Getpid() {
			// The first thread never ends, and its mounts are those in /proc/self; while it is taken, another one is found.
			defer runtime.UnlockOSThread()
			done <- apart(f)
			return
		}
		// Never unlocked: the thread must not run anything else, and ends with the goroutine.
		done <- func() error {
			if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
				return fmt.Errorf("making a mount namespace: %w", err)
			}
			if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
				return fmt.Errorf("separating mounts: %w", err)
			}
			return f()
		}()
	}()
	return <-done
}

// stage clones the mount of the folder, without what is mounted below it, prepares the clone, and attaches it as scratch/lower, beside
// folders for an overlay that lie in memory. The folder itself is only read.
func stage(folder string, prepare func(clone int) error) error {
	clone, err := unix.OpenTree(unix.AT_FDCWD, folder, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
	if err != nil {
		return fmt.Errorf("cloning the mount: %w", err)
	}
	defer unix.Close(clone)
	if err := prepare(clone); err != nil {
		return err
	}
	if err := unix.Mount("nodeimg", scratch, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=0700,size=1m"); err != nil {
		return fmt.Errorf("mounting a tmpfs: %w", err)
	}
	for _, name := range []string{"lower", "other", "upper", "work", "merged"} {
		if err := os.Mkdir(filepath.Join(scratch, name), 0o700); err != nil {
			return err
		}
	}
	if err := unix.MoveMount(clone, "", unix.AT_FDCWD, filepath.Join(scratch, "lower"), unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
		return fmt.Errorf("attaching the mount: %w", err)
	}
	return nil
}

func overlay(options string) error {
	if err := unix.Mount("overlay", filepath.Join(scratch, "merged"), "overlay", unix.MS_NOSUID|unix.MS_NODEV, options); err != nil {
		return fmt.Errorf("mounting an overlay: %w", err)
	}
	return nil
}

// overlayOn lays an overlay over the folder and writes into that; what is written lies in memory.
func overlayOn(folder string) error {
	var stat unix.Statfs_t
	if err := unix.Statfs(folder, &stat); err != nil {
		return err
	}
	if stat.Type == unix.OVERLAYFS_SUPER_MAGIC {
		return errors.New("it lies on an overlayfs itself, which cannot hold the upper folder of another")
	}
	if err := stage(folder, func(int) error { return nil }); err != nil {
		return err
	}
	if err := overlay("lowerdir=" + scratch + "/lower,upperdir=" + scratch + "/upper,workdir=" + scratch + "/work"); err != nil {
		return err
	}
	const name = "nodeimg-doctor"
	if err := os.WriteFile(filepath.Join(scratch, "merged", name), nil, 0o600); err != nil {
		return fmt.Errorf("writing into an overlay: %w", err)
	}
	if _, err := os.Stat(filepath.Join(scratch, "upper", name)); err != nil {
		return fmt.Errorf("what was written into an overlay is not in its upper folder: %w", err)
	}
	return nil
}

// idMappedOverlayOn lays an overlay over the folder as users of a user namespace see it, as Sysbox has a node's image.
func idMappedOverlayOn(folder string) error {
	owner, err := ownerOf(folder)
	if err != nil {
		return err
	}
	err = stage(folder, func(clone int) error {
		namespace, err := mount.GetUsernsFD(userMap())
		if err != nil {
			return fmt.Errorf("making a user namespace: %w", err)
		}
		defer namespace.Close()
		attributes := unix.MountAttr{Attr_set: unix.MOUNT_ATTR_IDMAP, Userns_fd: uint64(namespace.Fd())}
		if err := unix.MountSetattr(clone, "", unix.AT_EMPTY_PATH, &attributes); err != nil {
			return fmt.Errorf("mapping the users of the mount: %w", err)
		}
		return nil
	})
	if err != nil {
		return err
	}
	// Without an upper folder the overlay's root is that of the topmost layer, so it shows the mapping.
	if err := overlay("lowerdir=" + scratch + "/lower:" + scratch + "/other"); err != nil {
		return err
	}
	shown, err := ownerOf(filepath.Join(scratch, "merged"))
	if err != nil {
		return err
	}
	if owner < 1<<16 && shown != owner+shiftedTo {
		return fmt.Errorf("the overlay shows user %d instead of %d", shown, owner+shiftedTo)
	}
	return nil
}

// ownerOf is the user that a folder belongs to.
func ownerOf(folder string) (uint32, error) {
	info, err := os.Stat(folder)
	if err != nil {
		return 0, err
	}
	stat, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return 0, fmt.Errorf("%s has no owner", folder)
	}
	return stat.Uid, nil
}
