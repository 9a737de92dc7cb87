package clusters

import (
	"context"
	"fmt"
	"io"
	"log"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/nodeimg/nodeimg/test/internal/application"
	"github.com/nodeimg/nodeimg/test/internal/command"
	"github.com/nodeimg/nodeimg/test/internal/tools"
)

// wait is a generous limit for a condition on a machine that is busy.
const wait = 5 * time.Minute

// programs is the folder with nodeimg and buildkitd, compiled from this tree.
var programs string

func TestMain(m *testing.M) {
	os.Exit(run(m))
}

func run(m *testing.M) int {
	dir, err := os.MkdirTemp("", "nodeimg-clusters-")
	if err == nil {
		defer os.RemoveAll(dir)
		programs = dir
		err = command.Compile(context.Background(), dir)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	status := m.Run()
	if err := stopClusterEngine(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return status
}

// nodeimg runs what has to succeed and returns what it wrote to standard output.
func nodeimg(ctx context.Context, t *testing.T, environment []string, args ...string) string {
	t.Helper()
	return command.Run(ctx, t, programs, environment, args...)
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

// appImage is the test's application.
func appImage(t *testing.T) v1.Image {
	t.Helper()
	image, err := application.Image(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return image
}

// kubectl is the command line of kubectl in a control-plane node.
func kubectl(args ...string) []string {
	return append([]string{"kubectl", "--kubeconfig", "/etc/kubernetes/admin.conf"}, args...)
}

// startRegistry starts a registry on loopback that ends with the test, and returns its host and port.
func startRegistry(t *testing.T) string {
	t.Helper()
	server := httptest.NewServer(registry.New(registry.Logger(log.New(io.Discard, "", 0))))
	t.Cleanup(server.Close)
	return strings.TrimPrefix(server.URL, "http://")
}
