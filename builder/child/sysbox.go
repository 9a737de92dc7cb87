package child

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"

	"github.com/nodeimg/nodeimg/builder/child/shim"
	"github.com/nodeimg/nodeimg/dockerfiles"
)

// Sysbox's daemons look up a container's processes by their ids and its root file system by its path, both as they see them. A daemon
// with Sysbox therefore lives in the namespaces of its starter, and what the kernel otherwise does at the end of a namespace is done
// here: by the init, and after it by whoever finds its lock file.

// shim says how the daemon calls the runtimes; nil without Sysbox.
func (d *Daemon) shim() *shim.Config {
	if d.runtimes.sysbox == "" {
		return nil
	}
	c := &shim.Config{Runc: d.runtimes.steps, Sysbox: d.runtimes.sysbox, Mark: dockerfiles.InnerVariable}
	for _, daemon := range sysboxDaemons {
		c.Logs = append(c.Logs, daemon.log)
	}
	return c
}

// binary is the runtime that the daemon of o calls.
func (d *Daemon) binary(o owner) string {
	if o.Sysbox {
		return shim.Path(shimIn(o.SocketDir))
	}
	return d.runtimes.steps
}

// shimIn is the folder of the daemon's runtime and of its containers' state.
func shimIn(socketDir string) string { return filepath.Join(socketDir, "runtime") }

// join prepares a daemon in the namespaces of its starter.
func join(r initRequest) error {
	// What loses its parent becomes a child of this process.
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("becoming the reaper: %w", err)
	}
	short := temporaryIn(r.SocketDir)
	if err := os.Mkdir(short, 0o700); err != nil {
		return err
	}
	// No symbolic link: BuildKit compares paths in it with those that the kernel names.
	if err := unix.Mount(r.Temporary, short, "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("mounting the folder for temporary files: %w", err)
	}
	// Where the host shares its mounts, those in here would appear in the other folder as well.
	if err := unix.Mount("", short, "", unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("separating the folder for temporary files: %w", err)
	}
	if err := shim.Install(shimIn(r.SocketDir), *r.Sysbox); err != nil {
		return fmt.Errorf("installing the runtime: %w", err)
	}
	return nil
}

// leave takes back what a killed daemon, whose processes have ended, left with Sysbox and among the mounts.
func leave(socketDir, state string) error {
	if socketDir == "" {
		return unmountBelow(state)
	}
	shim.Clean(context.Background(), shimIn(socketDir))
	return errors.Join(unmountBelow(state), unmountBelow(socketDir))
}

// unmountBelow unmounts everything that is mounted in dir.
func unmountBelow(dir string) error {
	dir, err := filepath.EvalSymlinks(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	mounts, err := mountinfo.GetMounts(func(m *mountinfo.Info) (skip, stop bool) {
		return !strings.HasPrefix(m.Mountpoint, dir+"/"), false
	})
	if err != nil {
		return fmt.Errorf("finding mounts: %w", err)
	}
	var errs []error
	// Later mounts may lie in or on earlier ones.
	for i := len(mounts) - 1; i >= 0; i-- {
		err := unix.Unmount(mounts[i].Mountpoint, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
		// A mount that the host shares with itself goes with its peer.
		if err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) {
			errs = append(errs, fmt.Errorf("unmounting %s: %w", mounts[i].Mountpoint, err))
		}
	}
	return errors.Join(errs...)
}

// killAll kills every descendant of this process, which is their reaper, until none is left.
func killAll(none <-chan struct{}) {
	for {
		for _, pid := range children() {
			_ = unix.Kill(pid, unix.SIGKILL)
		}
		// Whoever is killed leaves its own children to this process.
		select {
		case <-none:
			return
		case <-time.After(5 * time.Millisecond):
		}
	}
}

// children returns the children of this process, see proc_pid_stat(5).
func children() []int {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil
	}
	self := strconv.Itoa(os.Getpid())
	var found []int
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		stat, err := os.ReadFile(filepath.Join("/proc", e.Name(), "stat"))
		if err != nil {
			continue
		}
		// The name, in brackets, may itself hold brackets and spaces.
		fields := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+1:]))
		if len(fields) > 1 && fields[1] == self {
			found = append(found, pid)
		}
	}
	return found
}
