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

// Compile puts nodeimg and buildkitd into dir.
func Compile(ctx context.Context, dir string) error {
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
