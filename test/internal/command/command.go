package command

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nodeimg/nodeimg/test/internal/tools"
)

// Main compiles nodeimg and buildkitd into a folder that it notes in programs, runs the tests and then what ends their shared resources,
// and ends the process. TestMain calls it.
func Main(m *testing.M, programs *string, after ...func() error) {
	os.Exit(run(m, programs, after))
}

func run(m *testing.M, programs *string, after []func() error) int {
	dir, err := os.MkdirTemp("", "nodeimg-test-")
	if err == nil {
		defer os.RemoveAll(dir)
		*programs = dir
		err = compile(context.Background(), dir)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	status := m.Run()
	for _, end := range after {
		if err := end(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			status = 1
		}
	}
	return status
}

// compile puts nodeimg and buildkitd into dir.
func compile(ctx context.Context, dir string) error {
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-o", dir+"/", "github.com/nodeimg/nodeimg/cmd/nodeimg")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("compiling nodeimg: %w\n%s", err, out)
	}
	buildkitd, err := tools.Buildkitd(ctx)
	if err != nil {
		return err
	}
	return os.Symlink(buildkitd, filepath.Join(dir, "buildkitd"))
}

// Run runs the nodeimg of dir, with variables beside those of this process, and returns what it wrote to standard output. Progress goes to
// the test's log when it fails, which ends the test.
func Run(ctx context.Context, t *testing.T, dir string, environment []string, args ...string) string {
	t.Helper()
	var stdout, stderr bytes.Buffer
	cmd := exec.CommandContext(ctx, filepath.Join(dir, "nodeimg"), args...)
	cmd.Env = append(os.Environ(), environment...)
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		t.Fatalf("nodeimg %s: %v\n%s", strings.Join(args, " "), err, stderr.String())
	}
	return stdout.String()
}

// Root is the repository.
func Root(t testing.TB) string {
	t.Helper()
	dir, err := tools.Root(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

// Stopwatch returns a function that logs how long the step took that has ended.
func Stopwatch(t testing.TB) (reached func(step string)) {
	last := time.Now()
	return func(step string) {
		t.Helper()
		now := time.Now()
		t.Logf("%s after %.1f s", step, now.Sub(last).Seconds())
		last = now
	}
}
