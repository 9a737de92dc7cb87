package e2e

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/nodeimg/nodeimg/test/internal/engine"
	"github.com/nodeimg/nodeimg/test/internal/node"
	"github.com/nodeimg/nodeimg/test/internal/tools"
)

// programs is the folder with nodeimg and buildkitd, compiled from this tree.
var programs string

func TestMain(m *testing.M) {
	os.Exit(run(m))
}

func run(m *testing.M) int {
	dir, err := os.MkdirTemp("", "nodeimg-e2e-")
	if err == nil {
		defer os.RemoveAll(dir)
		programs = dir
		err = compile(context.Background(), dir)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "compiling nodeimg:", err)
		return 1
	}
	status := m.Run()
	if err := stopClusterEngine(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return status
}

// compile puts nodeimg and buildkitd into dir.
func compile(ctx context.Context, dir string) error {
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-o", dir+"/", "github.com/nodeimg/nodeimg/cmd/nodeimg")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%w\n%s", err, out)
	}
	buildkitd, err := tools.Buildkitd(ctx)
	if err != nil {
		return err
	}
	return os.Symlink(buildkitd, filepath.Join(dir, "buildkitd"))
}

// nodeimg runs the binary and returns what it wrote to standard output; progress goes to the test's log when it fails.
func nodeimg(ctx context.Context, t *testing.T, environment []string, args ...string) string {
	t.Helper()
	var stdout, stderr bytes.Buffer
	cmd := exec.CommandContext(ctx, filepath.Join(programs, "nodeimg"), args...)
	cmd.Env = append(os.Environ(), environment...)
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		t.Fatalf("nodeimg %s: %v\n%s", strings.Join(args, " "), err, stderr.String())
	}
	return stdout.String()
}

// startEngine returns a connection to a Docker Engine, that of the user or one that ends with the test.
func startEngine(t *testing.T) (docker *node.Docker, host string) {
	t.Helper()
	running, err := engine.Open(t.Context(), engine.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Log("the Engine's log:\n" + running.Log())
		}
		if err := running.Stop(); err != nil {
			t.Error(err)
		}
	})
	docker, err = node.Connect(t.Context(), running.Host())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = docker.Close() })
	return docker, running.Host()
}

// root is the repository.
func root(t *testing.T) string {
	t.Helper()
	dir, err := tools.Root(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return dir
}
