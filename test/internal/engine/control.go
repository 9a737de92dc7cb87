package engine

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// The words that the Engine's PID 1 takes on its socket.
const (
	wordKill  = "kill"
	wordStop  = "stop"
	wordStart = "start"
)

// Kill ends dockerd as the kernel does that has no memory left. Its containerd and its containers go on. Restart starts it again.
func (e *Engine) Kill(ctx context.Context) error { return control(ctx, e.dir, wordKill) }

// Shutdown ends dockerd in its own orderly way, with its containers. Restart starts it again.
func (e *Engine) Shutdown(ctx context.Context) error { return control(ctx, e.dir, wordStop) }

// Restart starts dockerd again, with everything that it had, and returns when it answers.
func (e *Engine) Restart(ctx context.Context) error { return revive(ctx, e.dir) }

// revive starts the dockerd of the Engine in dir, unless it runs, and waits until it answers.
func revive(ctx context.Context, dir string) error {
	if err := control(ctx, dir, wordStart); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, startLimit, errors.New("the Engine does not answer"))
	defer cancel()
	for {
		err := Ping(ctx, hostOf(dir))
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("starting dockerd again: %w: %w", context.Cause(ctx), err)
		case <-time.After(50 * time.Millisecond):
		}
	}
}

func controlSocket(dir string) string { return filepath.Join(dir, "control.sock") }

// control tells the PID 1 of the Engine in dir a word, and waits until that is done.
func control(ctx context.Context, dir, word string) error {
	fail := func(err error) error { return fmt.Errorf("telling the Engine to %s dockerd: %w", word, err) }
	conn, err := new(net.Dialer).DialContext(ctx, "unix", controlSocket(dir))
	if err != nil {
		return fail(err)
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	defer stop()
	if _, err := fmt.Fprintln(conn, word); err != nil {
		return fail(err)
	}
	answer, err := bufio.NewReader(conn).ReadString('\n')
	if err != nil {
		return fail(err)
	}
	if answer = strings.TrimSpace(answer); answer != "ok" {
		return fail(errors.New(answer))
	}
	return nil
}

// order is a word with the way to answer it.
type order struct {
	word   string
	answer func(error)
}

// orders yields the words that come in on the socket of dir.
func orders(dir string) (<-chan order, error) {
	if err := os.Remove(controlSocket(dir)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	listener, err := net.Listen("unix", controlSocket(dir))
	if err != nil {
		return nil, err
	}
	found := make(chan order)
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			word, err := bufio.NewReader(conn).ReadString('\n')
			if err != nil {
				_ = conn.Close()
				continue
			}
			found <- order{strings.TrimSpace(word), func(err error) {
				answer := "ok"
				if err != nil {
					answer = err.Error()
				}
				_, _ = fmt.Fprintln(conn, answer)
				_ = conn.Close()
			}}
		}
	}()
	return found, nil
}

// daemon is the dockerd of an Engine's PID 1, which may end and start again.
type daemon struct {
	options InitOptions
	process *os.Process
	// ended answers the order to end it, when it has.
	ended func(error)
}

// obey does what the order says; the answer to an end comes when it has ended.
func (d *daemon) obey(o order) {
	var err error
	switch {
	case o.word == wordStart && d.process == nil:
		// The number in it may be another process's by now.
		_ = os.Remove(pidFile(d.options.Dir))
		d.process, err = startDockerd(d.options)
	case o.word == wordStart:
	case d.process == nil || d.ended != nil:
		err = errors.New("it does not run, or ends already")
	case o.word == wordKill:
		d.ended, err = o.answer, d.process.Signal(syscall.SIGKILL)
	case o.word == wordStop:
		d.ended, err = o.answer, d.process.Signal(syscall.SIGTERM)
	default:
		err = fmt.Errorf("unknown order %q", o.word)
	}
	if err != nil {
		d.ended = nil
	}
	if d.ended == nil {
		o.answer(err)
	}
}

// PID is that of the Engine's PID 1 as the host sees it: /proc/PID/ns are the Engine's namespaces, /proc/PID/mountinfo its mounts.
func (e *Engine) PID() (int, error) {
	// The kernel lists children by the thread that has forked them.
	lists, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", e.command.Process.Pid))
	if err != nil {
		return 0, err
	}
	for _, list := range lists {
		text, err := os.ReadFile(list)
		if err != nil {
			return 0, fmt.Errorf("finding the Engine's PID 1: %w", err)
		}
		if children := strings.Fields(string(text)); len(children) > 0 {
			return strconv.Atoi(children[0])
		}
	}
	return 0, errors.New("finding the Engine's PID 1: the supervisor has no child")
}
