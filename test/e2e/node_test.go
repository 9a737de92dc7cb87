package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/nodeimg/nodeimg/recipes"
	"github.com/nodeimg/nodeimg/test/internal/command"
	"github.com/nodeimg/nodeimg/test/internal/node"
	"github.com/nodeimg/nodeimg/test/internal/registry"
)

// wait is a generous limit for a condition on a machine that is busy.
const wait = 5 * time.Minute

// kubectl is the command line of kubectl in a control-plane node.
func kubectl(args ...string) []string {
	return append([]string{"kubectl", "--kubeconfig", "/etc/kubernetes/admin.conf"}, args...)
}

// TestE2ESourceImage builds the shipped recipes that need no registry, one for each container runtime, with a user's image added, and
// makes nodes of them.
func TestE2ESourceImage(t *testing.T) {
	host := registry.Start(t)
	pushApp(t, host)
	for _, shipped := range []string{"k8s-node-source.yaml", "k8s-node-docker.yaml", "k8s-node-crio.yaml"} {
		t.Run(strings.TrimSuffix(shipped, ".yaml"), func(t *testing.T) { sourceImage(t, shipped, host) })
	}
}

func sourceImage(t *testing.T, shipped, registry string) {
	recipe := writeRecipe(t, shipped, fmt.Sprintf("  preload:\n    images: [%q]\n  mirrors: {docker.io: \"http://%s\"}\n", appReference, registry))
	docker, host := startEngine(t)
	reference := "nodeimg-e2e/source:" + suffix()
	out := nodeimg(t.Context(), t, []string{"DOCKER_HOST=" + host}, "build", recipe, "-o", "type=docker", "-t", reference)
	t.Cleanup(func() { _ = docker.RemoveImage(context.WithoutCancel(t.Context()), reference) })
	if !strings.HasPrefix(out, reference+"@sha256:") || strings.Count(out, "\n") != 1 {
		t.Errorf("standard output is %q, want one reference with digest", out)
	}
	// Docker may give a stopped node another address: the node comes back on another network.
	network, other := internalNetwork(t, docker), internalNetwork(t, docker)
	n := start(t, docker, reference, network)
	var before string
	becomesReady(t, n, func() (err error) {
		if before, err = n.Address(t.Context(), network); err != nil {
			return err
		}
		return n.Move(t.Context(), network, other)
	})
	if after, err := n.Address(t.Context(), other); err != nil || after == before {
		t.Errorf("the address was %s and is %s (%v); the restart proved nothing", before, after, err)
	}
}

// suffix makes names that no other run uses at the same time.
func suffix() string { return fmt.Sprintf("%d-%x", os.Getpid(), time.Now().UnixNano()&0xffffff) }

// internalNetwork makes a network without a route out that ends with the test.
func internalNetwork(t *testing.T, docker *node.Docker) string {
	t.Helper()
	name := "nodeimg-e2e-" + suffix()
	remove, err := docker.Network(t.Context(), name, true)
	if err != nil {
		t.Fatal(err)
	}
	clean := context.WithoutCancel(t.Context())
	t.Cleanup(func() {
		if err := remove(clean); err != nil {
			t.Error(err)
		}
	})
	return name
}

// start starts a node on the network; it ends with the test.
func start(t *testing.T, docker *node.Docker, reference, network string) *node.Node {
	t.Helper()
	n, err := docker.Start(t.Context(), node.Options{Image: reference, Name: "nodeimg-e2e-" + suffix(), Network: network})
	if err != nil {
		t.Fatal(err)
	}
	clean := context.WithoutCancel(t.Context())
	t.Cleanup(func() {
		if t.Failed() {
			logs(clean, t, n)
		}
		if err := n.Remove(clean); err != nil {
			t.Error(err)
		}
	})
	return n
}

// logs shows what one wants to know of a node that failed.
func logs(ctx context.Context, t *testing.T, n *node.Node) {
	console, _ := n.Console(ctx)
	t.Log("console:\n" + console)
	for _, command := range [][]string{
		{"journalctl", "--no-pager", "-n", "60", "-u", "containerd", "-u", "docker", "-u", "cri-docker", "-u", "crio"},
		{"journalctl", "--no-pager", "-n", "60", "-u", "kubelet"},
		{"crictl", "ps", "-a"}, kubectl("get", "pods", "-A", "-o", "wide"), kubectl("get", "events", "-A"),
	} {
		out, err := n.Exec(ctx, command...)
		t.Logf("%s: %v\n%s", strings.Join(command, " "), err, out)
	}
}

// becomesReady boots the image, initialises Kubernetes with the shipped configuration and holds everything that a node image promises,
// before and after the node was restarted.
func becomesReady(t *testing.T, n *node.Node, restart func() error) {
	t.Helper()
	ctx := t.Context()
	reached := command.Stopwatch(t)
	if err := n.WaitBooted(ctx, wait); err != nil {
		t.Fatal(err)
	}
	reached("booted")
	checkImages(t, n)
	must(t, n, "kubeadm", "init", "--config", "/etc/nodeimg/kubeadm.yaml")
	reached("initialised")
	must(t, n, kubectl("create", "-f", "/usr/share/nodeimg/manifests/cni.yaml")...)
	ready(t, n, time.Time{})
	reached("ready")
	settled(t, n)
	manifest, err := os.Open("testdata/app.yaml")
	if err != nil {
		t.Fatal(err)
	}
	defer manifest.Close()
	// The service account is made by a controller soon after the API server answers.
	if _, err := n.WaitFor(ctx, wait, func(string) bool { return true }, kubectl("get", "serviceaccount", "default")...); err != nil {
		t.Fatal(err)
	}
	if _, err := n.ExecInput(ctx, manifest, kubectl("create", "-f", "-")...); err != nil {
		t.Fatal(err)
	}
	appAnswers(t, n)
	reached("application answers")
	noPull(t, n)
	since := time.Now()
	if err := restart(); err != nil {
		t.Fatal(err)
	}
	if err := n.WaitBooted(ctx, wait); err != nil {
		t.Fatal(err)
	}
	reached("restarted")
	ready(t, n, since)
	reached("ready again")
	appAnswers(t, n)
	reached("application answers again")
	noPull(t, n)
	noFailedSandbox(t, n)
	if err := n.WaitBooted(ctx, wait); err != nil {
		t.Errorf("after everything: %v", err)
	}
}

func must(t *testing.T, n *node.Node, command ...string) string {
	t.Helper()
	out, err := n.Exec(t.Context(), command...)
	if err != nil {
		t.Fatalf("%s: %v\n%s", strings.Join(command, " "), err, out)
	}
	return out
}

// checkImages compares what the runtime knows with the store.
func checkImages(t *testing.T, n *node.Node) {
	t.Helper()
	if images := storePinned(t, n, runtimeImages(t, n)); images < 10 {
		t.Errorf("the store holds %d images, want the seven of Kubernetes, flannel's, the provisioner's and the user's", images)
	}
}

// runtimeImages returns which images the runtime knows, and whether they are pinned. All must be complete.
func runtimeImages(t *testing.T, n *node.Node) (pinned map[string]bool) {
	t.Helper()
	var listed struct {
		Images []struct {
			RepoTags []string
			Pinned   bool
		}
	}
	if err := json.Unmarshal([]byte(must(t, n, "crictl", "images", "-o", "json")), &listed); err != nil {
		t.Fatal(err)
	}
	pinned = map[string]bool{}
	for _, image := range listed.Images {
		for _, tag := range image.RepoTags {
			// Docker leaves its own registry's name out.
			full, err := recipes.NormalizeReference(tag)
			if err != nil {
				t.Fatal(err)
			}
			pinned[full] = image.Pinned
		}
	}
	if criOf(t, n) == recipes.CRICRIO {
		return pinned
	}
	check := must(t, n, "sh", "-c", `ctr --namespace "${CONTAINERD_NAMESPACE:-k8s.io}" images check`)
	for _, line := range strings.Split(strings.TrimSpace(check), "\n")[1:] {
		if !strings.Contains(line, "complete") || strings.Contains(line, "incomplete") {
			t.Errorf("images check says %s", line)
		}
	}
	return pinned
}

// criOf returns which container runtime the node has.
func criOf(t *testing.T, n *node.Node) recipes.CRIName {
	t.Helper()
	config := must(t, n, "cat", "/etc/crictl.yaml")
	for socket, cri := range map[string]recipes.CRIName{
		"/run/containerd/containerd.sock": recipes.CRIContainerd, "/run/cri-dockerd.sock": recipes.CRIDocker, "/run/crio/crio.sock": recipes.CRICRIO,
	} {
		if strings.Contains(config, socket+"\n") {
			return cri
		}
	}
	t.Fatalf("/etc/crictl.yaml names no known socket: %s", config)
	return ""
}

// storePinned holds that each image of the store is among the pinned ones, and returns how many the store has. cri-dockerd cannot pin.
func storePinned(t *testing.T, n *node.Node, pinned map[string]bool) int {
	t.Helper()
	var store struct {
		Manifests []struct{ Annotations map[string]string }
	}
	if err := json.Unmarshal([]byte(must(t, n, "cat", recipes.StorePath+"/index.json")), &store); err != nil {
		t.Fatal(err)
	}
	cri := criOf(t, n)
	for _, m := range store.Manifests {
		reference := m.Annotations["org.opencontainers.image.ref.name"]
		if isPinned, ok := pinned[reference]; !ok || !isPinned && cri != recipes.CRIDocker {
			t.Errorf("%s: known to the runtime %v, pinned %v; want both (%v)", reference, ok, isPinned, pinned)
		}
	}
	return len(store.Manifests)
}

// ready waits until the node has said after the time that it is Ready, and the pods of kube-system are. The API server calls a node Ready
// for a while after it has gone.
func ready(t *testing.T, n *node.Node, since time.Time) {
	t.Helper()
	isReady := func(out string) bool {
		status, heartbeat, _ := strings.Cut(strings.TrimSpace(out), " ")
		at, err := time.Parse(time.RFC3339, heartbeat)
		return err == nil && status == "True" && at.After(since)
	}
	if _, err := n.WaitFor(t.Context(), wait, isReady, kubectl("get", "nodes", "-o", `jsonpath={range .items[*].status.conditions[?(@.type=="Ready")]}{.status} {.lastHeartbeatTime}{end}`)...); err != nil {
		t.Fatal(err)
	}
	allTrue := func(out string) bool {
		states := strings.Fields(out)
		for _, state := range states {
			if state != "True" {
				return false
			}
		}
		return len(states) >= 7
	}
	if _, err := n.WaitFor(t.Context(), wait, allTrue, kubectl("get", "pods", "-n", "kube-system", "-o", `jsonpath={.items[*].status.conditions[?(@.type=="Ready")].status}`)...); err != nil {
		t.Fatal(err)
	}
}

// settled holds that a new node got Ready without anything failing on the way and being tried again: the pod network needs nothing that
// comes later than itself, and pods start when it is there.
func settled(t *testing.T, n *node.Node) {
	t.Helper()
	noFailedSandbox(t, n)
	restarts := must(t, n, kubectl("get", "pods", "-n", "kube-system", "-l", "app=flannel", "-o", "jsonpath={.items[*].status.containerStatuses[*].restartCount}")...)
	if restarts != "0" {
		t.Errorf("flannel's restarts are %q, want one container that never did", restarts)
	}
}

// noFailedSandbox holds that no pod was ever tried on a node whose network was not there yet.
func noFailedSandbox(t *testing.T, n *node.Node) {
	t.Helper()
	if failed := must(t, n, kubectl("get", "events", "-A", "--field-selector", "reason=FailedCreatePodSandBox", "-o", "jsonpath={.items[*].message}")...); failed != "" {
		t.Errorf("pods were tried before the network was there: %s", failed)
	}
}

// appAnswers asks the user's application from the node. The pod has another address after a restart, so it is looked up every time.
func appAnswers(t *testing.T, n *node.Node) {
	t.Helper()
	hello := func(out string) bool { return strings.Contains(out, "hello from a preloaded image") }
	script := `exec 3<>"/dev/tcp/$("$@")/8080"; printf 'GET / HTTP/1.0\r\n\r\n' >&3; cat <&3`
	ask := append([]string{"timeout", "10", "bash", "-c", script, "ask"}, kubectl("get", "pod", "app", "-o", "jsonpath={.status.podIP}")...)
	if _, err := n.WaitFor(t.Context(), wait, hello, ask...); err != nil {
		t.Fatal(err)
	}
}

// pulls are what runtimes write into their logs when they begin to pull; cri-dockerd writes nothing.
var pulls = map[recipes.CRIName]struct{ unit, booted, pull string }{
	recipes.CRIContainerd: {"containerd", "containerd successfully booted", "PullImage"},
	recipes.CRIDocker:     {"docker", "Daemon has completed initialization", "pull"},
	recipes.CRICRIO:       {"crio", "Starting CRI-O", "Pulling image"},
}

// noPull holds that nothing was ever pulled.
func noPull(t *testing.T, n *node.Node) {
	t.Helper()
	runtime := pulls[criOf(t, n)]
	log := must(t, n, "journalctl", "--no-pager", "-u", runtime.unit, "-o", "cat")
	if !strings.Contains(log, runtime.booted) {
		t.Errorf("the log of %s is not what it should be:\n%s", runtime.unit, log)
	}
	for _, line := range strings.Split(log, "\n") {
		if strings.Contains(line, runtime.pull) {
			t.Errorf("%s pulled: %s", runtime.unit, line)
		}
	}
}
