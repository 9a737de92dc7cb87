package clusters

import (
	"context"
	"testing"
	"time"

	"github.com/nodeimg/nodeimg/test/internal/command"
)

// wait is a generous limit for a condition on a machine that is busy.
const wait = 5 * time.Minute

// programs is the folder with nodeimg and buildkitd, compiled from this tree.
var programs string

func TestMain(m *testing.M) { command.Main(m, &programs, stopClusterEngine) }

// nodeimg runs what has to succeed and returns what it wrote to standard output.
func nodeimg(ctx context.Context, t *testing.T, environment []string, args ...string) string {
	t.Helper()
	return command.Run(ctx, t, programs, environment, args...)
}

// kubectl is the command line of kubectl in a control-plane node.
func kubectl(args ...string) []string {
	return append([]string{"kubectl", "--kubeconfig", "/etc/kubernetes/admin.conf"}, args...)
}
