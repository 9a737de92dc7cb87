package stock

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"

	"github.com/nodeimg/nodeimg/test/internal/application"
	"github.com/nodeimg/nodeimg/test/internal/archive"
	"github.com/nodeimg/nodeimg/test/internal/command"
)

// kindNetwork is the network that stock kind makes for all of its clusters and never removes.
const kindNetwork = "kind"

// newKindHost is newHost for tests of kind.
func newKindHost(tb testing.TB, cluster string) host {
	tb.Helper()
	h := newHost(tb)
	tb.Cleanup(func() {
		h.TB = unending{tb}
		// What was deleted already is none of its errors.
		h.must("kind", "delete", "cluster", "--name", cluster)
		if strings.Contains(h.docker("network", "ls", "--format", "{{.Name}}"), kindNetwork) {
			h.docker("network", "rm", kindNetwork)
		}
	})
	return h
}

// TestKind makes clusters with stock kind, with nothing said but the image.
func TestKind(t *testing.T) {
	t.Run("one node", func(t *testing.T) {
		const cluster = "single"
		h := newKindHost(t, cluster)
		reached := command.Stopwatch(h)
		h.must("kind", "create", "cluster", "--name", cluster, "--image", nodeImage, "--wait", wait.String())
		reached("kind create cluster")
		if current := strings.TrimSpace(h.kubectl("config", "current-context")); current != "kind-"+cluster {
			t.Errorf("the current context is %q", current)
		}
		h.allReady(cluster + "-control-plane")
		// kind leaves no taint on the only node; that of one that is not Ready goes a moment after it is.
		h.until(func(out string) bool { return out == "" }, "kubectl", "get", "nodes", "-o", "jsonpath={.items[*].spec.taints}")
		h.runs("app", appImage, cluster+"-control-plane")
		h.systemReady()
		reached("application and system Ready")
		h.neverPulled(cluster + "-control-plane")
		h.gone(cluster)
	})
	t.Run("two workers", func(t *testing.T) {
		const cluster = "workers"
		h := newKindHost(t, cluster)
		config := filepath.Join(t.TempDir(), "kind.yaml")
		if err := os.WriteFile(config, []byte("kind: Cluster\napiVersion: kind.x-k8s.io/v1alpha4\nnodes: [{role: control-plane}, {role: worker}, {role: worker}]\n"), 0o644); err != nil {
			t.Fatal(err)
		}
		reached := command.Stopwatch(h)
		h.must("kind", "create", "cluster", "--name", cluster, "--image", nodeImage, "--config", config, "--wait", wait.String())
		reached("kind create cluster")
		nodes := []string{cluster + "-control-plane", cluster + "-worker", cluster + "-worker2"}
		h.allReady(nodes...)
		h.runs("app", appImage, cluster+"-worker2")
		reached("application Ready")

		const loaded = "example/loaded:v1"
		h.docker("load", "--input", saved(t, loaded))
		t.Cleanup(func() { host{TB: unending{t}}.docker("rmi", loaded) })
		h.must("kind", "load", "docker-image", loaded, "--name", cluster)
		h.runs("loaded", loaded, cluster+"-worker")
		reached("kind load docker-image, and a pod of it")
		h.systemReady()

		logs := t.TempDir()
		h.must("kind", "export", "logs", logs, "--name", cluster)
		for _, node := range nodes {
			for file, content := range map[string]string{
				"kubelet.log": "kubelet", "containerd.log": "containerd successfully booted", "journal.log": "systemd", "images.log": "example/loaded",
				"kubernetes-version.txt": "v1.", "serial.log": "", "inspect.json": node,
			} {
				text, err := os.ReadFile(filepath.Join(logs, node, file))
				if err != nil || len(text) == 0 || !strings.Contains(string(text), content) {
					t.Errorf("kind export logs: %s of %s: %v, %d bytes; want it to have %q", file, node, err, len(text), content)
				}
			}
		}
		reached("kind export logs")
		h.neverPulled(nodes...)
		h.gone(cluster)
	})
}

// gone deletes the cluster and holds that nothing of it is left but kind's network.
func (h host) gone(cluster string) {
	h.Helper()
	h.must("kind", "delete", "cluster", "--name", cluster)
	if left := h.docker("ps", "--all", "--quiet") + h.docker("volume", "ls", "--quiet"); left != "" {
		h.Errorf("kind delete cluster left containers or volumes: %s", left)
	}
	if text, err := os.ReadFile(h.kubeconfig); err != nil || strings.Contains(string(text), cluster) {
		h.Errorf("kind delete cluster left the context in the kubeconfig: %v\n%s", err, text)
	}
}

// saved writes an archive with an image of the application that no node image has, and returns its path.
func saved(t *testing.T, reference string) string {
	t.Helper()
	image := application.For(t)
	layer, err := archive.Layer(archive.Program("marker", fmt.Append(nil, reference)))
	if err != nil {
		t.Fatal(err)
	}
	if image, err = mutate.AppendLayers(image, layer); err != nil {
		t.Fatal(err)
	}
	tag, err := name.NewTag(reference)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "image.tar")
	if err := tarball.WriteToFile(file, tag, image); err != nil {
		t.Fatal(err)
	}
	return file
}
