package stock

import (
	"strings"
	"testing"

	"github.com/nodeimg/nodeimg/test/internal/command"
)

// TestDockerRun is the procedure by hand: docker run, kubeadm init in the container, the pod network, and a worker that joins. It is done with the
// configuration that the image ships, as docs/node-image.md has it, on a network without a way out, and with kubeadm's flags, as people
// type them, on Docker's default network, which has no resolver.
func TestDockerRun(t *testing.T) {
	t.Run("configuration", func(t *testing.T) {
		h := newHost(t)
		const network = "nodeimg-stock-internal"
		h.docker("network", "create", "--internal", network)
		t.Cleanup(func() { host{TB: unending{t}}.docker("network", "rm", network) })
		byHand(h, network, "kubeadm init --config /etc/nodeimg/kubeadm.yaml")
	})
	t.Run("flags", func(t *testing.T) {
		byHand(newHost(t), "bridge", "kubeadm init --pod-network-cidr=10.244.0.0/16")
	})
}

func byHand(h host, network, kubeadmInit string) {
	h.Helper()
	const controlPlane, worker = "k8s-control-plane", "k8s-worker"
	h.removeLater(controlPlane, worker)
	reached := command.Stopwatch(h)
	for _, node := range []string{controlPlane, worker} {
		h.docker(append(append([]string{"run", "-d", "--name", node, "--hostname", node, "--network", network}, h.runFlags()...), nodeImage)...)
	}
	for _, node := range []string{controlPlane, worker} {
		h.until(succeeds, "docker", "exec", node, "crictl", "info")
	}
	reached("two nodes booted")
	h.docker("exec", controlPlane, "sh", "-c", kubeadmInit)
	reached("initialised")
	h.docker("cp", controlPlane+":/etc/kubernetes/admin.conf", h.kubeconfig)
	h.docker("exec", controlPlane, "kubectl", "--kubeconfig", "/etc/kubernetes/admin.conf", "create", "-f", "/usr/share/nodeimg/manifests/cni.yaml")
	join := h.docker("exec", controlPlane, "sh", "-c", "kubeadm token create --print-join-command 2> /dev/null")
	h.docker("exec", worker, "sh", "-c", join)
	reached("joined")
	if strings.Contains(kubeadmInit, "--config") {
		// The configuration names the control plane as Docker's resolver does, which this host cannot ask.
		h.kubectl("config", "set-cluster", "kubernetes", "--server", "https://"+h.address(controlPlane)+":6443")
	}
	h.allReady(controlPlane, worker)
	reached("both Ready")
	h.runs("app", appImage, worker)
	h.systemReady()
	reached("application and system Ready")
	h.neverPulled(controlPlane, worker)
}

// address is the container's IPv4 address.
func (h host) address(container string) string {
	h.Helper()
	return strings.TrimSpace(h.docker("inspect", "--format", "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}", container))
}
