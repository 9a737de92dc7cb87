package clusters

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"

	"github.com/nodeimg/nodeimg/test/internal/command"
	"github.com/nodeimg/nodeimg/test/internal/engine"
)

// clusterImage is the node image in the Engine of clusters: recipes/k8s-node-source.yaml as it is shipped.
const clusterImage = "nodeimg-clusters/k8s-node:shared"

// clusterEngine is the Engine that the tests of clusters share. It lives in the host's network namespace: published ports can be reached.
var clusterEngine struct {
	start   sync.Once
	running *engine.Engine
	err     error
}

// clusters returns a launcher on the Engine that all tests of clusters share; it has clusterImage. The first call starts the Engine and
// builds the image, TestMain's run stops it. Each test gets a kubeconfig of its own, names its clusters as no other test does, and has to
// remove them: a container, volume or network that is left fails the test and is removed, so that the next one begins with the same. Tests
// that change the Engine itself (its restart, its disk) start their own.
func clusters(t *testing.T) launcher {
	t.Helper()
	shared := &clusterEngine
	shared.start.Do(func() {
		ctx := context.WithoutCancel(t.Context())
		if shared.running, shared.err = engine.Start(ctx, engine.Options{Network: engine.HostNetwork}); shared.err == nil {
			buildClusterImage(ctx, t, shared.running.Host())
		}
	})
	if shared.err != nil {
		t.Fatal(shared.err)
	}
	l := launcher{t: t, host: shared.running.Host(), kubeconfig: filepath.Join(t.TempDir(), "kube", "config")}
	before := l.has()
	t.Cleanup(func() {
		// The test's own context has ended.
		ctx := context.WithoutCancel(t.Context())
		after, err := engineHas(ctx, l.host)
		if err != nil || after == before {
			if err != nil {
				t.Error(err)
			}
			return
		}
		t.Errorf("the test left something:\n%s\nbefore:\n%s", after, before)
		cmd := exec.CommandContext(ctx, filepath.Join(programs, "nodeimg"), "down", "--all")
		cmd.Env = append(os.Environ(), "DOCKER_HOST="+l.host, "KUBECONFIG="+l.kubeconfig)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("nodeimg down --all: %v\n%s", err, out)
		}
	})
	return l
}

// buildClusterImage builds clusterImage in the Engine at host.
func buildClusterImage(ctx context.Context, t *testing.T, host string) {
	t.Helper()
	nodeimg(ctx, t, []string{"DOCKER_HOST=" + host}, "build", filepath.Join(command.Root(t), "recipes", "k8s-node-source.yaml"), "-o", "type=docker", "-t", clusterImage)
}

// stopClusterEngine ends the Engine of clusters, if a test has started it.
func stopClusterEngine() error {
	if clusterEngine.running == nil {
		return nil
	}
	return clusterEngine.running.Stop()
}
