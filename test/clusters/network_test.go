package clusters

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"

	"github.com/nodeimg/nodeimg/test/internal/archive"
	"github.com/nodeimg/nodeimg/test/internal/command"
	"github.com/nodeimg/nodeimg/test/internal/tools"
)

// volumePod keeps what it writes in a volume of the default class.
const volumePod = `{"apiVersion": "v1", "kind": "Pod", "metadata": {"name": %q}, "spec": {"terminationGracePeriodSeconds": 0,
	"containers": [{"name": "net", "image": "example/net:v1", "imagePullPolicy": "Never", "volumeMounts": [{"name": "kept", "mountPath": "/kept"}]}],
	"volumes": [{"name": "kept", "persistentVolumeClaim": {"claimName": "kept"}}]}}`

// TestNetwork makes a cluster with each pod network and holds what pods may expect of it: other pods under their own addresses,
// services, names, volumes, also after a node has come back with another address. The cluster without a daemon tries each way of
// kube-proxy besides.
func TestNetwork(t *testing.T) {
	l := clusters(t)
	image := netImage(t)
	for _, network := range []string{"bridge", "flannel"} {
		t.Run(network, func(t *testing.T) {
			n := &netCluster{launcher: l, name: "net-" + network}
			n.t = t
			reached := command.Stopwatch(t)
			up := []string{"up", clusterImage, "--name", n.name, "--workers", "2", "--privileged", "--progress", "plain"}
			if network != "bridge" { // It is the default.
				up = append(up, "--cni", network)
			}
			n.must(up...)
			reached("Ready")
			n.must("load", "--name", n.name, "archive:"+image)
			n.applyFile("testdata/network.yaml")
			n.pods(3)
			reached("pods run")
			n.podsReachPods()
			n.podsReachOutside()
			n.services()
			reached("network tried")
			n.folders()
			n.volumes()
			reached("volumes tried")
			if network == "bridge" {
				n.kubeProxyModes()
				reached("modes of kube-proxy tried")
			}
			n.addressChanges()
			n.podsReachPods()
			n.services()
			reached("another address")
			n.must("down", "--name", n.name)
		})
	}
}

// netImage compiles the tests' program and packs it into an archive that nodeimg can load.
func netImage(t *testing.T) string {
	t.Helper()
	program, err := tools.Command(t.Context(), "test/clusters/testdata/net")
	if err != nil {
		t.Fatal(err)
	}
	content, err := os.ReadFile(program)
	if err != nil {
		t.Fatal(err)
	}
	layer, err := archive.Layer(archive.Program("net", content))
	if err != nil {
		t.Fatal(err)
	}
	image, err := mutate.AppendLayers(empty.Image, layer)
	if err != nil {
		t.Fatal(err)
	}
	config, err := image.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	config = config.DeepCopy()
	config.OS, config.Architecture, config.Config.Entrypoint = "linux", "amd64", []string{"/net"}
	if image, err = mutate.ConfigFile(image, config); err != nil {
		t.Fatal(err)
	}
	tag, err := name.NewTag("example/net:v1")
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "net.tar")
	if err := tarball.WriteToFile(file, tag, image); err != nil {
		t.Fatal(err)
	}
	return file
}

// netCluster is a cluster with the pods of network.yaml.
type netCluster struct {
	launcher
	name string
	// addresses are those of the pods by the pods' names, nodes those of the nodes by theirs.
	addresses, nodes map[string]string
}

// apply creates objects.
func (n *netCluster) apply(objects string) {
	n.t.Helper()
	n.eventually("creating objects", func(ctx context.Context) error {
		cmd := exec.CommandContext(ctx, "docker", append([]string{"exec", "-i", n.name + "-control-plane-1"}, kubectl("apply", "-f", "-")...)...)
		cmd.Env = append(os.Environ(), "DOCKER_HOST="+n.host)
		cmd.Stdin = strings.NewReader(objects)
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("%w: %s", err, out)
		}
		return nil
	})
}

func (n *netCluster) applyFile(file string) {
	n.t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		n.t.Fatal(err)
	}
	n.apply(string(text))
}

// eventually tries until try succeeds, which has to happen in time.
func (n *netCluster) eventually(what string, try func(context.Context) error) {
	n.t.Helper()
	ctx, cancel := context.WithTimeout(n.t.Context(), wait)
	defer cancel()
	for {
		err := try(ctx)
		if err == nil {
			return
		}
		select {
		case <-ctx.Done():
			n.t.Fatalf("%s: %v", what, err)
		case <-time.After(200 * time.Millisecond):
		}
	}
}

// pods waits until there is a Ready pod on each of the nodes and learns the addresses.
func (n *netCluster) pods(count int) {
	n.t.Helper()
	n.eventually("waiting for pods", func(ctx context.Context) error {
		n.addresses, n.nodes = map[string]string{}, map[string]string{}
		ready, err := n.ask(ctx, n.name+"-control-plane-1", "get", "pods", "-l", "app=net", "-o",
			`jsonpath={range .items[*]}{.metadata.name} {.status.podIP} {.spec.nodeName} {.status.hostIP} {.status.conditions[?(@.type=="Ready")].status}{"\n"}{end}`)
		if err != nil {
			return err
		}
		for line := range strings.Lines(ready) {
			if f := strings.Fields(line); len(f) == 5 && f[4] == "True" {
				n.addresses[f[0]], n.nodes[f[2]] = f[1], f[3]
			}
		}
		if len(n.addresses) != count || len(n.nodes) != count {
			return errors.New(ready)
		}
		return nil
	})
}

// in runs the tests' program in a pod.
func (n *netCluster) in(ctx context.Context, pod string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, "docker", append([]string{"exec", n.name + "-control-plane-1"}, kubectl(append([]string{"exec", pod, "--", "/net"}, args...)...)...)...)
	cmd.Env = append(os.Environ(), "DOCKER_HOST="+n.host)
	out, err := cmd.CombinedOutput()
	if err != nil {
		err = fmt.Errorf("%s in %s: %w: %s", strings.Join(args, " "), pod, err, out)
	}
	return string(out), err
}

func (n *netCluster) mustIn(pod string, args ...string) string {
	n.t.Helper()
	out, err := n.in(n.t.Context(), pod, args...)
	if err != nil {
		n.t.Fatal(err)
	}
	return out
}

// podsReachPods holds that each pod reaches each other one, which sees who asks by its own address.
func (n *netCluster) podsReachPods() {
	n.t.Helper()
	for from, own := range n.addresses {
		for to, address := range n.addresses {
			if from == to {
				continue
			}
			n.eventually("asking another pod", func(ctx context.Context) error {
				got, err := n.in(ctx, from, "get", "http://"+net.JoinHostPort(address, "8080"))
				if want := to + " " + own + "\n"; err == nil && got != want {
					return fmt.Errorf("%s answers %q, want %q", to, got, want)
				}
				return err
			})
		}
	}
}

// podsReachOutside holds that a server beyond the pod network sees a pod as its node: it would not know the way back to the pod.
func (n *netCluster) podsReachOutside() {
	n.t.Helper()
	gateway := strings.TrimSpace(n.docker("inspect", "--format", "{{range .NetworkSettings.Networks}}{{.Gateway}}{{end}}", n.name+"-worker-1"))
	listener, err := new(net.ListenConfig).Listen(n.t.Context(), "tcp", gateway+":0")
	if err != nil {
		n.t.Fatal(err)
	}
	server := http.Server{ReadHeaderTimeout: time.Minute, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		host, _, _ := net.SplitHostPort(r.RemoteAddr)
		_, _ = io.WriteString(w, host)
	})}
	go func() { _ = server.Serve(listener) }()
	defer server.Close()
	nodes := slices.Collect(maps.Values(n.nodes))
	for pod := range n.addresses {
		n.eventually("asking this host", func(ctx context.Context) error {
			got, err := n.in(ctx, pod, "get", "http://"+listener.Addr().String())
			if err == nil && !slices.Contains(nodes, got) {
				return fmt.Errorf("%s comes from %s, want one of the nodes %v", pod, got, nodes)
			}
			return err
		})
	}
}

// services holds that pods reach the service by its address and its names, and this host does by every node.
func (n *netCluster) services() {
	n.t.Helper()
	address := strings.TrimSpace(n.kubectl(n.name, "get", "service", "net", "-o", "jsonpath={.spec.clusterIP}"))
	for pod := range n.addresses {
		for _, host := range []string{address, "net", "net.default.svc.cluster.local"} {
			n.eventually("asking for the service", func(ctx context.Context) error {
				out, err := n.in(ctx, pod, "get", "http://"+net.JoinHostPort(host, "80"))
				if answering, _, _ := strings.Cut(out, " "); err == nil && n.addresses[answering] == "" {
					return fmt.Errorf("%s answers %q", host, out)
				}
				return err
			})
		}
	}
	for node, address := range n.nodes {
		n.eventually("asking "+node, func(ctx context.Context) error {
			request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+net.JoinHostPort(address, "30080"), nil)
			if err != nil {
				return err
			}
			client := http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
			response, err := client.Do(request)
			if err != nil {
				return err
			}
			defer response.Body.Close()
			out, err := io.ReadAll(response.Body)
			if answering, _, _ := strings.Cut(string(out), " "); err == nil && n.addresses[answering] == "" {
				return fmt.Errorf("%s answers %q", address, out)
			}
			return err
		})
	}
}

// folders writes to a folder of the node and to one of the pod.
func (n *netCluster) folders() {
	n.t.Helper()
	for pod := range n.addresses {
		for _, file := range []string{"/node/written", "/own/written"} {
			n.mustIn(pod, "write", file, "by "+pod)
			if got := n.mustIn(pod, "read", file); got != "by "+pod {
				n.t.Errorf("%s reads %q from %s", pod, got, file)
			}
		}
	}
	for node := range n.nodes {
		if got := n.docker("exec", node, "cat", "/var/net-test/written"); !strings.HasPrefix(got, "by net-") {
			n.t.Errorf("%s has %q", node, got)
		}
	}
}

// volumes holds that what a pod writes to a volume of the default class outlives it, and that the volume goes with its claim.
func (n *netCluster) volumes() {
	n.t.Helper()
	n.apply(fmt.Sprintf(volumePod, "first"))
	n.kubectl(n.name, "wait", "--for=condition=Ready", "pod/first", "--timeout="+wait.String())
	n.mustIn("first", "write", "/kept/text", "outlives its pod")
	n.kubectl(n.name, "delete", "pod", "first")
	n.apply(fmt.Sprintf(volumePod, "second"))
	n.kubectl(n.name, "wait", "--for=condition=Ready", "pod/second", "--timeout="+wait.String())
	if got := n.mustIn("second", "read", "/kept/text"); got != "outlives its pod" {
		n.t.Errorf("the volume has %q", got)
	}
	node := strings.TrimSpace(n.kubectl(n.name, "get", "pod", "second", "-o", "jsonpath={.spec.nodeName}"))
	n.kubectl(n.name, "delete", "pod", "second")
	n.kubectl(n.name, "delete", "persistentvolumeclaim", "kept")
	n.eventually("waiting until the volume is gone", func(ctx context.Context) error {
		left, err := n.ask(ctx, n.name+"-control-plane-1", "get", "persistentvolumes", "-o", "name")
		if err == nil && left != "" {
			return errors.New(left)
		}
		return err
	})
	if left := n.docker("exec", node, "find", "/var/local-path-provisioner", "-mindepth", "1"); left != "" {
		n.t.Errorf("%s still has %s", node, left)
	}
}

// kubeProxyModes tries each other way of kube-proxy that this kernel has.
func (n *netCluster) kubeProxyModes() {
	n.t.Helper()
	modes := []string{"nftables"}
	if _, err := os.Stat("/proc/net/ip_vs"); err == nil {
		modes = append(modes, "ipvs")
	}
	for _, mode := range modes {
		configured := n.kubectl(n.name, "get", "configmap", "kube-proxy", "-n", "kube-system", "-o", "yaml")
		var changed strings.Builder
		for line := range strings.Lines(configured) {
			if strings.HasPrefix(strings.TrimSpace(line), "mode: ") {
				line = "    mode: " + mode + "\n"
			}
			changed.WriteString(line)
		}
		n.apply(changed.String())
		n.kubectl(n.name, "rollout", "restart", "daemonset/kube-proxy", "-n", "kube-system")
		n.kubectl(n.name, "rollout", "status", "daemonset/kube-proxy", "-n", "kube-system", "--timeout="+wait.String())
		n.eventually("asking kube-proxy", func(ctx context.Context) error {
			log, err := n.ask(ctx, n.name+"-control-plane-1", "logs", "-n", "kube-system", "-l", "k8s-app=kube-proxy", "--tail=-1", "--prefix")
			saying := map[string]bool{}
			for line := range strings.Lines(log) {
				if pod, said, _ := strings.Cut(line, " "); strings.Contains(said, "Using "+mode+" Proxier") {
					saying[pod] = true
				}
			}
			if err == nil && len(saying) != len(n.nodes) {
				return fmt.Errorf("not %d but %v say that they use %s:\n%s", len(n.nodes), saying, mode, log)
			}
			return err
		})
		// The API server itself is behind a service too.
		n.services()
	}
}

// addressChanges restarts a worker, whose address somebody else has meanwhile.
func (n *netCluster) addressChanges() {
	n.t.Helper()
	worker := n.name + "-worker-2"
	old := n.nodes[worker]
	n.docker("stop", worker)
	network := strings.TrimSpace(n.docker("inspect", "--format", "{{range $name, $network := .NetworkSettings.Networks}}{{$name}}{{end}}", worker))
	// The Engine chooses addresses on networks whose subnet it has chosen.
	for i := 0; ; i++ {
		if i == 16 {
			n.t.Fatalf("nobody gets the address %s", old)
		}
		name := fmt.Sprintf("%s-thief-%d", n.name, i)
		n.docker("run", "--detach", "--name", name, "--network", network, "--entrypoint", "sleep", clusterImage, "infinity")
		defer n.docker("rm", "--force", "--volumes", name)
		if address := n.docker("inspect", "--format", "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}", name); strings.TrimSpace(address) == old {
			break
		}
	}
	n.docker("start", worker)
	n.eventually("waiting for the other address", func(context.Context) error {
		n.pods(3)
		if n.nodes[worker] == old {
			return fmt.Errorf("%s still has %s", worker, old)
		}
		return nil
	})
}
