package dockerengine

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/pkg/stdcopy"
)

// ExitError says that a command in a container ended with a status other than 0.
type ExitError struct {
	Command []string
	Status  int
	// Output is the end of what the command wrote on standard output and standard error.
	Output string
}

// Error implements error.
func (e *ExitError) Error() string {
	return fmt.Sprintf("%s: exit status %d: %s", strings.Join(e.Command, " "), e.Status, strings.TrimSpace(e.Output))
}

// exitPoll is how often Exec asks for the exit status after the output has ended, which comes first.
const exitPoll = 10 * time.Millisecond

// Exec runs a command in a running container and returns its standard output. Stdin may be nil; each line that the command writes goes to
// log, which may be nil. The error is an *ExitError when the command ran and failed.
func (e *Engine) Exec(ctx context.Context, id string, stdin io.Reader, log func(line string), command ...string) (string, error) {
	var stdout, both bytes.Buffer
	lines := &lineWriter{log: log}
	status, err := e.exec(ctx, id, stdin, io.MultiWriter(&stdout, &both, lines), io.MultiWriter(&both, lines), command)
	if err == nil && status != 0 {
		err = &ExitError{Command: command, Status: status, Output: tail(both.String())}
	}
	return stdout.String(), err
}

// ExecTo is Exec for a command with much to say: its standard output goes to stdout and is not kept.
func (e *Engine) ExecTo(ctx context.Context, id string, stdout io.Writer, command ...string) error {
	var stderr bytes.Buffer
	status, err := e.exec(ctx, id, nil, stdout, &stderr, command)
	if err == nil && status != 0 {
		err = &ExitError{Command: command, Status: status, Output: tail(stderr.String())}
	}
	return err
}

// exec runs a command and returns its exit status.
func (e *Engine) exec(ctx context.Context, id string, stdin io.Reader, stdout, stderr io.Writer, command []string) (status int, err error) {
	fail := func(err error) (int, error) {
		return 0, fmt.Errorf("running %s: %w", strings.Join(command, " "), plain(ctx, err))
	}
	created, err := e.client.ContainerExecCreate(ctx, id, container.ExecOptions{
		Cmd: command, AttachStdin: stdin != nil, AttachStdout: true, AttachStderr: true,
	})
	if err != nil {
		return fail(err)
	}
	stream, err := e.client.ContainerExecAttach(ctx, created.ID, container.ExecAttachOptions{})
	if err != nil {
		return fail(err)
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
	if _, err := stdcopy.StdCopy(stdout, stderr, stream.Reader); err != nil {
		return fail(err)
	}
	for {
		inspected, err := e.client.ContainerExecInspect(ctx, created.ID)
		if err != nil {
			return fail(err)
		}
		if !inspected.Running {
			return inspected.ExitCode, nil
		}
		select {
		case <-ctx.Done():
			return fail(context.Cause(ctx))
		case <-time.After(exitPoll):
		}
	}
}

// Logs returns the end of what a container has written to its console.
func (e *Engine) Logs(ctx context.Context, id string) (string, error) {
	logs, err := e.client.ContainerLogs(ctx, id, container.LogsOptions{ShowStdout: true, ShowStderr: true, Tail: "30"})
	if err != nil {
		return "", fmt.Errorf("reading the console of container %s: %w", id, plain(ctx, err))
	}
	defer logs.Close()
	text, err := io.ReadAll(io.LimitReader(logs, 1<<20))
	if err != nil {
		return "", fmt.Errorf("reading the console of container %s: %w", id, plain(ctx, err))
	}
	return string(text), nil
}

// tail keeps the last lines of a long text: what went wrong stands at the end.
func tail(text string) string {
	const most = 30
	lines := strings.Split(strings.TrimRight(text, "\n"), "\n")
	if len(lines) > most {
		lines = lines[len(lines)-most:]
	}
	return strings.Join(lines, "\n")
}

// lineWriter gives whole lines to log.
type lineWriter struct {
	log  func(string)
	rest []byte
}

// Write implements io.Writer.
func (w *lineWriter) Write(p []byte) (int, error) {
	if w.log == nil {
		return len(p), nil
	}
	w.rest = append(w.rest, p...)
	for {
		line, rest, ok := bytes.Cut(w.rest, []byte("\n"))
		if !ok {
			return len(p), nil
		}
		w.log(strings.TrimRight(string(line), "\r"))
		w.rest = rest
	}
}
