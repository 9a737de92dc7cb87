package engine

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/gofrs/flock"

	"github.com/nodeimg/nodeimg/test/internal/tools"
)

// sharedID names the one Engine that make engine starts.
const sharedID = "shared"

// StartDetached starts the shared Engine, which outlives this process, unless it runs already, and returns its address.
func StartDetached(ctx context.Context) (string, error) {
	dir, err := stateDir(sharedID)
	if err != nil {
		return "", err
	}
	args, err := prepare(ctx, Options{Network: HostNetwork})
	if err != nil {
		return "", fmt.Errorf("starting the Docker Engine: %w", err)
	}
	log, err := os.Create(filepath.Join(filepath.Dir(dir), sharedID+".log"))
	if err != nil {
		return "", fmt.Errorf("starting the Docker Engine: %w", err)
	}
	defer log.Close()
	cmd := exec.Command(args[0], append(args[1:], "-id", sharedID)...)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return "", fmt.Errorf("starting the Docker Engine: %w", err)
	}
	exited := make(chan error, 1)
	go func() { exited <- cmd.Wait() }()
	ctx, cancel := context.WithTimeoutCause(ctx, startLimit, errors.New("the Engine does not answer"))
	defer cancel()
	ended := false
	for {
		err := Ping(ctx, hostOf(dir))
		if err == nil {
			return hostOf(dir), nil
		}
		if ended && !running(dir) {
			return "", fmt.Errorf("starting the Docker Engine: it ended\n%s", tail(log.Name()))
		}
		select {
		case <-exited:
			// An Engine that runs already makes the new supervisor end; then the old one answers.
			ended = true
		case <-ctx.Done():
			return "", fmt.Errorf("starting the Docker Engine: %w: %w", context.Cause(ctx), err)
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// StopDetached ends the shared Engine and waits until nothing of it is left. When none runs it removes what a killed one has left.
func StopDetached(ctx context.Context) error {
	dir, err := stateDir(sharedID)
	if err != nil {
		return err
	}
	if running(dir) {
		b, err := os.ReadFile(filepath.Join(dir, "pid"))
		if err != nil {
			return fmt.Errorf("stopping the Docker Engine: %w", err)
		}
		pid, err := strconv.Atoi(strings.TrimSpace(string(b)))
		if err != nil {
			return fmt.Errorf("stopping the Docker Engine: %w", err)
		}
		if err := syscall.Kill(pid, syscall.SIGTERM); err != nil {
			return fmt.Errorf("stopping the Docker Engine: %w", err)
		}
	}
	for running(dir) {
		select {
		case <-ctx.Done():
			return fmt.Errorf("stopping the Docker Engine: %w", context.Cause(ctx))
		case <-time.After(50 * time.Millisecond):
		}
	}
	unlock, err := tools.Lock(ctx, filepath.Join(filepath.Dir(dir), ".sweep"))
	if err != nil {
		return err
	}
	defer unlock()
	if err := sweep(filepath.Dir(dir)); err != nil {
		return err
	}
	_ = os.Remove(filepath.Join(filepath.Dir(dir), sharedID+".log"))
	return nil
}

// running reports whether a supervisor holds the lock of the Engine in dir.
func running(dir string) bool {
	if _, err := os.Stat(dir + ".lock"); err != nil {
		return false
	}
	lock := flock.New(dir + ".lock")
	free, err := lock.TryLock()
	if err != nil {
		return false
	}
	_ = lock.Close()
	return !free
}
