package cli

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/nodeimg/nodeimg/recipes"
)

// output is a buffer that can be read while a process writes to it.
type output struct {
	mu     sync.Mutex
	buffer bytes.Buffer
}

// Write implements io.Writer.
func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buffer.Write(p)
}

// String returns what was written so far.
func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buffer.String()
}

// building is a nodeimg that runs.
type building struct {
	*exec.Cmd
	stdout, stderr output
	// ended is closed when it has ended.
	ended chan struct{}
}

// sleeping starts a build whose last step sleeps for long, and returns when it does. A build that ends before fails the test.
func (w *workplace) sleeping(ctx context.Context) *building {
	w.t.Helper()
	w.recipe(func(spec *recipes.Spec) {
		// What is printed must not stand in the line itself, which the display shows earlier.
		spec.Run = []string{"echo sleeping-$((40 + 2))-" + filepath.Base(w.dir) + "\nsleep 1200"}
	})
	b := &building{Cmd: w.command(ctx, "build", "recipe.yaml", "--progress", "plain"), ended: make(chan struct{})}
	b.Stdout, b.Stderr = &b.stdout, &b.stderr
	if err := b.Start(); err != nil {
		w.t.Fatal(err)
	}
	go func() {
		defer close(b.ended)
		_ = b.Wait()
	}()
	eventually(w.t, "the step sleeps", func() bool {
		select {
		case <-b.ended:
			w.t.Fatalf("nodeimg ended before its last step, with %s:\n%s", b.ProcessState, &b.stderr)
		default:
		}
		return strings.Contains(b.stderr.String(), "sleeping-42-")
	})
	return b
}

func mustMachine(t *testing.T) state {
	t.Helper()
	now, err := machine()
	if err != nil {
		t.Fatal(err)
	}
	return now
}

func TestInterrupt(t *testing.T) {
	for _, signal := range []syscall.Signal{syscall.SIGINT, syscall.SIGTERM} {
		t.Run(signal.String(), func(t *testing.T) {
			before := mustMachine(t)
			w := newWorkplace(t)
			ctx, cancel := context.WithTimeout(t.Context(), runLimit)
			defer cancel()
			b := w.sleeping(ctx)
			if err := b.Process.Signal(signal); err != nil {
				t.Fatal(err)
			}
			slow := time.AfterFunc(patience, cancel)
			<-b.ended
			if !slow.Stop() {
				t.Fatalf("nodeimg still ran %s after the signal", patience)
			}
			if b.ProcessState.ExitCode() != 1 || b.stdout.String() != "" || !strings.HasSuffix(b.stderr.String(), "\nError: interrupted\n") {
				t.Errorf("it ended with %s, stdout %q, stderr\n%s", b.ProcessState, &b.stdout, &b.stderr)
			}
			if left := leftovers(before); len(left) > 0 {
				t.Errorf("it left:\n%s", indent(left))
			}
			if got := w.entries("."); !slices.Equal(got, []string{"recipe.yaml"}) {
				t.Errorf("it left %q", got)
			}
		})
	}
}

func TestKill(t *testing.T) {
	before := mustMachine(t)
	w := newWorkplace(t)
	ctx, cancel := context.WithTimeout(t.Context(), runLimit)
	defer cancel()
	b := w.sleeping(ctx)
	tmp := filepath.Join(userCache(t), "tmp")
	folders, err := filepath.Glob(filepath.Join(tmp, "build-*.lock"))
	if err != nil {
		t.Fatal(err)
	}
	if err := b.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	<-b.ended
	// What runs and what is mounted goes with the process; files stay until the next build.
	for deadline := time.Now().Add(patience); ; time.Sleep(50 * time.Millisecond) {
		var left []string
		for line := range mustMachine(t) {
			if !before[line] && (strings.HasPrefix(line, "process ") || strings.HasPrefix(line, "mount ")) {
				left = append(left, line)
			}
		}
		if len(left) == 0 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("a killed nodeimg left:\n%s", indent(left))
		}
	}
	killed := slices.DeleteFunc(folders, func(path string) bool { return !free(path) })
	if len(killed) == 0 {
		t.Errorf("no folder in %s became free, so this test does not see one that stays", tmp)
	}
	w.standard()
	w.build("--no-cache").digest()
	for _, lock := range killed {
		for _, path := range []string{lock, strings.TrimSuffix(lock, ".lock")} {
			if _, err := os.Lstat(path); err == nil {
				t.Errorf("the next build did not remove %s", path)
			}
		}
	}
	if left := leftovers(before); len(left) > 0 {
		t.Errorf("after the next build there still is:\n%s", indent(left))
	}
	if got := w.entries("out"); !slices.Equal(got, []string{"small"}) {
		t.Errorf("in out lies %q", got)
	}
}
