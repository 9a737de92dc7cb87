package e2e

import (
	"context"
	"testing"

	"github.com/nodeimg/nodeimg/test/internal/command"
	"github.com/nodeimg/nodeimg/test/internal/engine"
	"github.com/nodeimg/nodeimg/test/internal/node"
)

// programs is the folder with nodeimg and buildkitd, compiled from this tree.
var programs string

func TestMain(m *testing.M) { command.Main(m, &programs) }

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
