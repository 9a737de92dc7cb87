package e2e

import (
	"context"
	"fmt"
	"os"
	"testing"

	"github.com/nodeimg/nodeimg/test/internal/command"
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
		err = command.Compile(context.Background(), dir)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return m.Run()
}

// nodeimg runs what has to succeed and returns what it wrote to standard output.
func nodeimg(ctx context.Context, t *testing.T, environment []string, args ...string) string {
	t.Helper()
	return command.Run(ctx, t, programs, environment, args...)
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
