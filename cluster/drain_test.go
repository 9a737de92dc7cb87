package cluster

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"syscall"
	"testing"
	"time"
)

// TestLeash runs commands that end with their standard input, as in a control plane.
func TestLeash(t *testing.T) {
	leashed := func(script string) (*exec.Cmd, io.Closer) {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		t.Cleanup(cancel)
		cmd := exec.CommandContext(ctx, "sh", "-c", leash, "sh", "sh", "-c", script)
		stdin, err := cmd.StdinPipe()
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = stdin.Close() })
		return cmd, stdin
	}

	// A command that ends by itself has its own status and output, and nothing of it is left that holds its output, while its input is held.
	for _, status := range []int{0, 3} {
		cmd, _ := leashed(fmt.Sprintf("echo said; echo complained >&2; exit %d", status))
		out, err := cmd.CombinedOutput()
		if exit := new(exec.ExitError); err != nil && !errors.As(err, &exit) {
			t.Fatal(err)
		}
		if got := cmd.ProcessState.ExitCode(); got != status || string(out) != "said\ncomplained\n" {
			t.Errorf("exit status %d, want %d, and said %q", got, status, out)
		}
	}

	// One that does not is killed when nobody holds its input any more.
	cmd, stdin := leashed("echo $$; exec sleep 1000")
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	said, err := bufio.NewReader(stdout).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	var sleeps int
	if _, err := fmt.Sscan(said, &sleeps); err != nil {
		t.Fatal(err)
	}
	if err := stdin.Close(); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); cmd.ProcessState.ExitCode() != 128+int(syscall.SIGTERM) {
		t.Errorf("a command whose input has ended: %v", err)
	}
	if err := syscall.Kill(sleeps, 0); !errors.Is(err, syscall.ESRCH) {
		t.Errorf("a command whose input has ended is still there: %v", err)
		_ = syscall.Kill(sleeps, syscall.SIGKILL)
	}
}

// TestTidied undoes things also after an interruption, and tells what is left.
func TestTidied(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	interrupted := fmt.Errorf("moving: %w", context.Canceled)
	if err := tidied(ctx, interrupted, "undoing", func(ctx context.Context) error { return ctx.Err() }); !errors.Is(err, context.Canceled) || err.Error() != interrupted.Error() {
		t.Errorf("all was undone: %v", err)
	}
	left := errors.New("a node is left")
	err := tidied(ctx, interrupted, "undoing", func(context.Context) error { return left })
	if errors.Is(err, context.Canceled) || !errors.Is(err, left) {
		t.Errorf("something was not undone: %v", err)
	}
}
