package stock

import (
	"fmt"
	"strings"
	"testing"

	"github.com/nodeimg/nodeimg/test/internal/command"
)

// TestKindbox does what kindbox's script does (https://github.com/nestybox/kindbox): it makes a cluster with one worker, resizes it to two
// and to one, and destroys it. kindbox itself cannot run here: it takes kubectl and the pod network from the Internet.
func TestKindbox(t *testing.T) {
	h := newHost(t)
	const cluster, network = "box", "box-net"
	master, worker := cluster+"-master", func(i int) string { return fmt.Sprintf("%s-worker-%d", cluster, i) }
	reached := command.Stopwatch(h)

	// create
	h.docker("network", "create", "--driver=bridge", network)
	t.Cleanup(func() { host{TB: unending{t}}.docker("network", "rm", network) })
	h.removeLater(master, worker(0), worker(1))
	h.nodes(network, master, worker(0))
	reached("master and worker booted")
	h.docker("exec", master, "sh", "-c", "kubeadm init --kubernetes-version="+h.kubernetes()+" --pod-network-cidr=10.244.0.0/16 2>&1")
	h.docker("cp", master+":/etc/kubernetes/admin.conf", h.kubeconfig)
	h.docker("cp", master+":/usr/share/nodeimg/manifests/cni.yaml", h.kubeconfig+"-cni.yaml")
	h.kubectl("apply", "-f", h.kubeconfig+"-cni.yaml")
	reached("master initialised")
	join := h.docker("exec", master, "sh", "-c", "kubeadm token create --print-join-command 2> /dev/null")
	h.docker("exec", "-d", worker(0), "sh", "-c", join)
	h.allReady(master, worker(0))
	reached("two nodes Ready")
	h.runs("app", appImage, worker(0))
	h.systemReady()
	reached("application and system Ready")

	// resize --num-workers=2
	h.nodes(network, worker(1))
	join = h.docker("exec", master, "sh", "-c", "kubeadm token create --print-join-command 2> /dev/null")
	h.docker("exec", "-d", worker(1), "sh", "-c", join)
	h.allReady(master, worker(0), worker(1))
	reached("another worker Ready")
	h.neverPulled(master, worker(0), worker(1))

	// resize --num-workers=1
	h.kubectl("delete", "node", worker(1))
	h.docker("stop", "-t0", worker(1))
	h.allReady(master, worker(0))

	// destroy
	h.docker("stop", "-t0", worker(0), master)
	h.until(func(out string) bool { return !strings.Contains(out, cluster+"-") }, "docker", "ps", "--all", "--format", "{{.Names}}")
	reached("destroyed")
}

// nodes starts nodes as kindbox does, which are gone when they are stopped, and waits until systemd in them runs without a failed unit.
func (h host) nodes(network string, names ...string) {
	h.Helper()
	for _, name := range names {
		h.docker(append(append([]string{"run"}, h.runFlags()...), "-d", "--rm", "--network="+network, "--name="+name, "--hostname="+name, nodeImage)...)
	}
	for _, name := range names {
		h.until(func(out string) bool { return strings.TrimSpace(out) == "running" }, "docker", "exec", name, "systemctl", "is-system-running")
	}
}

// kubernetes is the version that the image says it has.
func (h host) kubernetes() string {
	h.Helper()
	return strings.TrimSpace(h.docker("image", "inspect", "--format", `{{index .Config.Labels "dev.nodeimg.kubernetes"}}`, nodeImage))
}
