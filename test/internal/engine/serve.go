package engine

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"

	"github.com/gofrs/flock"

	"github.com/nodeimg/nodeimg/test/internal/tools"
)

// logName is the Engine's log in its state folder.
const logName = "engine.log"

// stopLimit is how long the daemons get to end by themselves before they are killed.
const stopLimit = 20 * time.Second

// ServeOptions configure Serve.
type ServeOptions struct {
	// ID names the Engine: its state folder, its cgroups and its lock.
	ID string
	// Programs is the folder with dockerd, docker-proxy, containerd and containerd-shim-runc-v2.
	Programs string
	// Network is the network namespace to use.
	Network Network
	// Lifeline ends the Engine when it ends; nil means that only ctx does.
	Lifeline io.Reader
	// ContainerdRoot is as in Options.
	ContainerdRoot string
	// Flags are given to dockerd in addition.
	Flags []string
}

// ErrRunning says that an Engine with the same id runs already.
var ErrRunning = errors.New("an Engine with this id runs already")

// Serve runs an Engine until ctx ends or the lifeline does, and then removes all of it. First it removes what earlier Engines that
// were killed together with their supervisor have left.
func Serve(ctx context.Context, options ServeOptions) error {
	dir, err := stateDir(options.ID)
	if err != nil {
		return err
	}
	sweeping, err := tools.Lock(ctx, filepath.Join(filepath.Dir(dir), ".sweep"))
	if err != nil {
		return err
	}
	if err := sweep(filepath.Dir(dir)); err != nil {
		sweeping()
		return err
	}
	own := flock.New(dir + ".lock")
	locked, err := own.TryLock()
	if err == nil && !locked {
		err = ErrRunning
	}
	if err == nil {
		err = os.MkdirAll(dir, 0o700)
	}
	sweeping()
	if err != nil {
		return fmt.Errorf("starting Engine %s: %w", options.ID, err)
	}
	defer own.Close()

	err = serve(ctx, dir, options)
	err = errors.Join(err, remove(dir))
	return errors.Join(err, os.Remove(dir+".lock"))
}

// serve runs the Engine's PID 1 in new namespaces.
func serve(ctx context.Context, dir string, options ServeOptions) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	if options.Lifeline != nil {
		go func() {
			_, _ = io.Copy(io.Discard, options.Lifeline)
			cancel()
		}()
	}
	if options.Network == HostNetwork {
		if err := saveNetwork(dir); err != nil {
			return err
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "pid"), fmt.Appendln(nil, os.Getpid()), 0o644); err != nil {
		return fmt.Errorf("writing the pid file: %w", err)
	}
	log, err := os.Create(filepath.Join(dir, logName))
	if err != nil {
		return fmt.Errorf("creating the Engine's log: %w", err)
	}
	defer log.Close()
	self, err := os.Executable()
	if err != nil {
		return fmt.Errorf("finding the supervisor's own program: %w", err)
	}
	args := append([]string{"init", "-dir", dir, "-programs", options.Programs, "-network", string(options.Network), "-containerd-root", options.ContainerdRoot}, flagArguments(options.Flags)...)
	init := exec.Command(self, args...)
	init.Stdout, init.Stderr = log, log
	init.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: syscall.CLONE_NEWNS | syscall.CLONE_NEWPID, Setpgid: true, Pdeathsig: syscall.SIGKILL,
	}
	if options.Network == OwnNetwork {
		init.SysProcAttr.Cloneflags |= syscall.CLONE_NEWNET
	}
	// The kernel sends the parent-death signal when the thread that forked ends, not the process.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if err := init.Start(); err != nil {
		return fmt.Errorf("starting the Engine in namespaces of its own: %w", err)
	}
	exited := make(chan error, 1)
	go func() { exited <- init.Wait() }()
	select {
	case err := <-exited:
		return fmt.Errorf("the Engine ended by itself: %w\n%s", err, tail(log.Name()))
	case <-ctx.Done():
	}
	if options.Network == HostNetwork {
		stopping, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
		defer cancel()
		err := revive(stopping, dir)
		if err == nil {
			err = empty(stopping, hostOf(dir))
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, "removing containers and networks:", err)
		}
		_ = init.Process.Signal(syscall.SIGTERM)
		select {
		case <-exited:
			return nil
		case <-time.After(stopLimit):
		}
	}
	// With PID 1 the kernel ends everything in the namespace: daemons, shims and containers.
	_ = init.Process.Kill()
	<-exited
	return nil
}

// empty removes all containers with their volumes and all networks that somebody made.
func empty(ctx context.Context, host string) error {
	body, err := request(ctx, host, "GET", "/containers/json?all=1")
	if err != nil {
		return err
	}
	var containers []struct{ ID string }
	if err := json.Unmarshal(body, &containers); err != nil {
		return fmt.Errorf("reading the Engine's containers: %w", err)
	}
	var errs []error
	for _, container := range containers {
		_, err := request(ctx, host, "DELETE", "/containers/"+container.ID+"?force=1&v=1")
		errs = append(errs, err)
	}
	_, err = request(ctx, host, "POST", "/networks/prune")
	return errors.Join(append(errs, err)...)
}

// sweep removes what Engines whose lock nobody holds have left in parent. The caller holds the sweep lock.
func sweep(parent string) error {
	entries, err := os.ReadDir(parent)
	if err != nil {
		return fmt.Errorf("looking for what earlier Engines left: %w", err)
	}
	for _, entry := range entries {
		if !entry.IsDir() {
			continue
		}
		dir := filepath.Join(parent, entry.Name())
		lock := flock.New(dir + ".lock")
		free, err := lock.TryLock()
		if err != nil || !free {
			continue
		}
		err = remove(dir)
		_ = os.Remove(dir + ".lock")
		_ = lock.Close()
		if err != nil {
			return fmt.Errorf("removing what an earlier Engine left: %w", err)
		}
	}
	return nil
}

// remove clears away everything that an Engine that has ended leaves outside its namespaces.
func remove(dir string) error {
	return errors.Join(restoreNetwork(dir), removeCgroups(cgroupName(dir)), os.RemoveAll(dir))
}

// tail is the end of a log, for an error.
func tail(path string) string {
	b, err := os.ReadFile(path)
	if err != nil {
		return err.Error()
	}
	lines := strings.Split(strings.TrimSpace(string(b)), "\n")
	return strings.Join(lines[max(0, len(lines)-20):], "\n")
}
