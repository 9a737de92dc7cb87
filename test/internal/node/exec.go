package node

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/pkg/stdcopy"
)

// poll is how often WaitFor looks again.
const poll = 500 * time.Millisecond

// ExitError says that a command in a node ended with a status other than 0.
type ExitError struct {
	Node    string
	Command []string
	Status  int
	// Output is what the command wrote on standard output and standard error.
	Output string
}

// Error implements error.
func (e *ExitError) Error() string {
	return fmt.Sprintf("running %s in node %s: exit status %d: %s", strings.Join(e.Command, " "), e.Node, e.Status, strings.TrimSpace(e.Output))
}

// Exec runs a command in the node and returns its standard output. The error is an *ExitError when the command ran and failed.
func (n *Node) Exec(ctx context.Context, command ...string) (string, error) {
	return n.ExecInput(ctx, nil, command...)
}

// ExecInput is Exec with standard input.
func (n *Node) ExecInput(ctx context.Context, stdin io.Reader, command ...string) (string, error) {
	fail := func(err error) error {
		return fmt.Errorf("running %s in node %s: %w", strings.Join(command, " "), n.name, err)
	}
	created, err := n.client.ContainerExecCreate(ctx, n.id, container.ExecOptions{
		Cmd: command, AttachStdin: stdin != nil, AttachStdout: true, AttachStderr: true, Privileged: true,
	})
	if err != nil {
		return "", fail(err)
	}
	stream, err := n.client.ContainerExecAttach(ctx, created.ID, container.ExecAttachOptions{})
	if err != nil {
		return "", fail(err)
	}
	defer stream.Close()
	// The hijacked connection knows nothing of ctx.
	stop := context.AfterFunc(ctx, stream.Close)
	defer stop()
	if stdin != nil {
		go func() {
			_, _ = io.Copy(stream.Conn, stdin)
			_ = stream.CloseWrite()
		}()
	}
	var stdout, both bytes.Buffer
	if _, err := stdcopy.StdCopy(io.MultiWriter(&stdout, &both), &both, stream.Reader); err != nil {
		if cause := context.Cause(ctx); cause != nil {
			err = cause
		}
		return stdout.String(), fail(err)
	}
	// The output ends before the Engine has noted the exit status.
	for {
		inspected, err := n.client.ContainerExecInspect(ctx, created.ID)
		if err != nil {
			return stdout.String(), fail(err)
		}
		if !inspected.Running {
			if inspected.ExitCode != 0 {
				return stdout.String(), &ExitError{Node: n.name, Command: command, Status: inspected.ExitCode, Output: both.String()}
			}
			return stdout.String(), nil
		}
		select {
		case <-ctx.Done():
			return stdout.String(), fail(context.Cause(ctx))
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// WaitFor runs the command in the node again and again until done accepts its standard output, or limit has passed; then the error
// holds the last answer. A command that fails is tried again.
func (n *Node) WaitFor(ctx context.Context, limit time.Duration, done func(stdout string) bool, command ...string) (string, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, limit, errors.New("it did not happen in "+limit.String()))
	defer cancel()
	for {
		stdout, err := n.Exec(ctx, command...)
		if err == nil && done(stdout) {
			return stdout, nil
		}
		select {
		case <-ctx.Done():
			if err == nil {
				err = errors.New("the last answer was " + strings.TrimSpace(stdout))
			}
			return stdout, fmt.Errorf("waiting for %s in node %s: %w: %w", strings.Join(command, " "), n.name, context.Cause(ctx), err)
		case <-time.After(poll):
		}
	}
}

// WaitBooted waits until systemd in the node says that it is running. A node with failed units is degraded: the error lists them.
func (n *Node) WaitBooted(ctx context.Context, limit time.Duration) error {
	settled := func(state string) bool {
		state = strings.TrimSpace(state)
		return state == "running" || state == "degraded"
	}
	// is-system-running ends with status 1 unless the state is running.
	state, err := n.WaitFor(ctx, limit, settled, "sh", "-c", "systemctl is-system-running || true")
	if err != nil {
		return err
	}
	if strings.TrimSpace(state) == "running" {
		return nil
	}
	units, err := n.Exec(ctx, "systemctl", "list-units", "--failed", "--plain", "--no-legend", "--no-pager")
	if err != nil {
		return err
	}
	return fmt.Errorf("waiting for node %s to boot: failed units:\n%s", n.name, units)
}
