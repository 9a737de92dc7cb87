package shim

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os/exec"
	"sync"
	"syscall"
	"time"
)

// cleanTimeout bounds Clean.
const cleanTimeout = time.Second

// remove deletes a container. That it is gone already is success: sysbox-runc deletes its containers itself when they end.
func remove(dir string, config Config, runtime string, c command, id string) (int, error) {
	root := stateDir(dir, runtime)
	message, err := call(context.Background(), runtime, c.line(root, c.log, c.flags))
	if err != nil && !exited(err) {
		return 0, err
	}
	if err != nil {
		exists, stateErr := exists(context.Background(), runtime, root, id)
		if stateErr != nil {
			return 0, stateErr
		}
		if exists {
			message, err = call(context.Background(), runtime, []string{"--root=" + root, "delete", "--force", id})
		} else {
			err = nil
		}
	}
	if err != nil {
		if runtime == config.Sysbox {
			message += tails(config.Logs)
		}
		return 0, fmt.Errorf("deleting container %s: %w: %s", id, err, message)
	}
	return 0, forget(dir, id)
}

// exists says whether the runtime knows the container.
func exists(ctx context.Context, runtime, root, id string) (bool, error) {
	_, err := call(ctx, runtime, []string{"--root=" + root, "state", id})
	if exited(err) {
		return false, nil
	}
	return err == nil, err
}

// call runs a runtime and returns what it printed.
func call(ctx context.Context, runtime string, line []string) (string, error) {
	var out bytes.Buffer
	cmd := exec.CommandContext(ctx, runtime, line...)
	cmd.Stdout, cmd.Stderr = &out, &out
	// What the runtime leaves running has its output too; that is nothing to wait for.
	cmd.WaitDelay = 100 * time.Millisecond
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	err := cmd.Run()
	if errors.Is(err, exec.ErrWaitDelay) {
		err = nil
	}
	return string(bytes.TrimSpace(out.Bytes())), err
}

// exited says whether err is the exit status of a runtime, and not that it could not be called.
func exited(err error) bool {
	var exit *exec.ExitError
	return errors.As(err, &exit) && exit.Exited()
}

// Clean deletes, within a second, the containers that the runtime in dir gave to Sysbox and that nobody deleted, so that Sysbox's daemons
// forget them. It is for the end of a build that was killed; the containers' processes have ended. There may be no runtime in dir.
func Clean(ctx context.Context, dir string) {
	ids, err := marked(dir)
	if err != nil || len(ids) == 0 {
		return
	}
	config, err := read(dir)
	if err != nil {
		return
	}
	ctx, cancel := context.WithTimeoutCause(ctx, cleanTimeout, errors.New("no answer from Sysbox"))
	defer cancel()
	var all sync.WaitGroup
	for _, id := range ids {
		all.Go(func() {
			if _, err := call(ctx, config.Sysbox, []string{"--root=" + stateDir(dir, config.Sysbox), "delete", "--force", id}); err == nil || exited(err) {
				_ = forget(dir, id)
			}
		})
	}
	all.Wait()
}
