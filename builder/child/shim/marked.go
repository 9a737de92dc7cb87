package shim

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// runMarked runs a container with sysbox-runc and returns its exit status.
//
// BuildKit says --keep, so that it can read the container's cgroup after its end. sysbox-runc has no such flag, and must not: when a
// container ends, sysbox-mgr gives its files back their owners and copies its volumes into its root file system, and when BuildKit
// deletes the container that file system may be gone.
func runMarked(dir string, config Config, c command, id, rootfs string) (int, error) {
	if err := os.WriteFile(markPath(dir, id), nil, 0o600); err != nil {
		return 0, fmt.Errorf("remembering container %s: %w", id, err)
	}
	before, err := owner(rootfs)
	if err != nil {
		return 0, err
	}
	log := logPath(dir, id)
	cmd := exec.Command(config.Sysbox, c.line(stateDir(dir, config.Sysbox), log, c.without("keep"))...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	// As BuildKit does with the shim; the signal comes when the thread ends that has started the process.
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	runtime.LockOSThread()
	signals := make(chan os.Signal, 64)
	signal.Notify(signals)
	if err := cmd.Start(); err != nil {
		return 0, fmt.Errorf("starting sysbox-runc: %w", err)
	}
	go func() {
		for s := range signals {
			// The first is about the child itself, the second is how the Go runtime wakes its own threads.
			if s != unix.SIGCHLD && s != unix.SIGURG {
				_ = cmd.Process.Signal(s)
			}
		}
	}()
	var exit *exec.ExitError
	if err := cmd.Wait(); err != nil && !errors.As(err, &exit) {
		return 0, fmt.Errorf("waiting for sysbox-runc: %w", err)
	}
	signal.Stop(signals)
	status := cmd.ProcessState.ExitCode()
	if ws, ok := cmd.ProcessState.Sys().(syscall.WaitStatus); ok && ws.Signaled() {
		status = 128 + int(ws.Signal())
	}
	passLog(log, c.log)
	if status != 0 {
		// The status is the container's own unless sysbox-runc has complained.
		if complained(log) {
			fmt.Fprintf(os.Stderr, "sysbox-runc failed%s\n", tails(config.Logs))
		}
		return status, nil
	}
	after, err := owner(rootfs)
	if err != nil {
		return 0, err
	}
	if after != before {
		return 0, fmt.Errorf("the step has ended, but Sysbox has left its files to user %d: sysbox-mgr has failed, or sees other mounts than nodeimg; run nodeimg where Sysbox runs, or choose --worker-runtime runc%s", after, tails(config.Logs))
	}
	return 0, nil
}

// owner is the user that owns a container's root directory.
func owner(rootfs string) (uint32, error) {
	var st unix.Stat_t
	if err := unix.Lstat(rootfs, &st); err != nil {
		return 0, fmt.Errorf("reading the root file system %s: %w", rootfs, err)
	}
	return st.Uid, nil
}

// passLog appends the log of one container to the one that BuildKit has asked for.
func passLog(from, to string) {
	if to == "" {
		return
	}
	in, err := os.Open(from)
	if err != nil {
		return
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
	if err != nil {
		return
	}
	defer out.Close()
	_, _ = io.Copy(out, in)
}

// complained says whether a runtime's log, in either of runc's formats, has an error of the runtime's own.
func complained(log string) bool {
	f, err := os.Open(log)
	if err != nil {
		return false
	}
	defer f.Close()
	for s := bufio.NewScanner(f); s.Scan(); {
		for _, level := range []string{`"level":"error"`, `"level":"fatal"`, `"level":"panic"`, "level=error", "level=fatal", "level=panic"} {
			if strings.Contains(s.Text(), level) {
				return true
			}
		}
	}
	return false
}
