package clusters

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nodeimg/nodeimg/test/internal/command"
	"github.com/nodeimg/nodeimg/test/internal/engine"
)

// TestControlPlanes makes a cluster of three control planes, which goes on without one of them, and comes back whichever of its containers
// start again, and however: one, all, with each other's addresses, with the Engine.
func TestControlPlanes(t *testing.T) {
	running, l := ownEngine(t, engine.Options{})
	reached := command.Stopwatch(t)
	buildClusterImage(t.Context(), t, l.host)
	reached("image built")
	before := l.has()
	c := newThree(l)
	t.Cleanup(func() {
		if t.Failed() {
			t.Log(l.wreck(c.name))
		}
	})
	// What fails is kept for wreck.
	l.must("up", clusterImage, "--name", c.name, "--control-planes", "3", "--workers", "1", "--privileged", "--retain", "--progress", "plain")
	reached("three control planes and a worker Ready")
	if ready := fmt.Sprint(l.nodes()); ready != fmt.Sprint(c.nodes) {
		t.Errorf("Ready nodes at the published address: %v", ready)
	}
	if who := l.docker("exec", c.balancer, "sh", "-c", "id -u; grep CapBnd /proc/self/status; touch /written 2>&1 || true"); !strings.HasPrefix(who, "65534\n") ||
		!strings.Contains(who, "CapBnd:\t0000000000000000") || !strings.Contains(who, "Read-only file system") {
		t.Errorf("the load balancer has what it does not need:\n%s", who)
	}
	l.expectNodes(c.name, func(name, state, status string) bool {
		return state == "running" && (status == "Ready" || name == c.balancer && status == "")
	}, c.all)
	sent, _ := load(l, c.name, "archive:"+savedApp(t, "example/three:v1"))
	for _, node := range c.nodes {
		if sent[node] < ownLayer {
			t.Errorf("%s was sent %d bytes of an image", node, sent[node])
		}
		l.docker("exec", node, "crictl", "inspecti", "-q", "example/three:v1")
	}
	reached("an image loaded")

	c.loses(c.planes[0])
	reached("lost the first control plane")

	c.restarted("every container started again by docker restart", func() { l.docker(append([]string{"restart"}, c.all...)...) })
	l.docker("restart", c.balancer)
	c.answers()
	reached("the load balancer started again")
	c.restarted("stopped, and started with each other's addresses", c.swapAddresses)
	c.restarted("the Engine started again", func() {
		if err := errors.Join(running.Shutdown(t.Context()), running.Restart(t.Context())); err != nil {
			t.Fatal(err)
		}
	})
	reached("restarted")
	for _, node := range c.nodes {
		l.podRuns(c.name, node)
	}
	reached("pods run everywhere")

	l.must("resize", "--name", c.name, "--workers", "0", "--progress", "plain")
	l.succeeds(func(ctx context.Context) error {
		taints, err := l.ask(ctx, c.planes[0], "get", "nodes", "-o", "jsonpath={.items[*].spec.taints}")
		if err == nil && taints != "" {
			err = fmt.Errorf("without workers, nodes refuse pods: %s", taints)
		}
		return err
	})
	reached("no workers")
	l.must("down", "--name", c.name)
	reached("removed")
	if after := l.has(); after != before {
		t.Errorf("down left something:\n%s", after)
	}
}

// three is a cluster of three control planes and a worker.
type three struct {
	launcher
	name, worker, balancer string
	planes                 []string
	// nodes are the planes and the worker, all has the load balancer too.
	nodes, all []string
}

func newThree(l launcher) three {
	c := three{launcher: l, name: "three", worker: "three-worker-1", balancer: "three-load-balancer"}
	for n := range 3 {
		c.planes = append(c.planes, fmt.Sprintf("%s-control-plane-%d", c.name, n+1))
	}
	c.nodes = append(slices.Clone(c.planes), c.worker)
	c.all = append(slices.Clone(c.nodes), c.balancer)
	return c
}

// loses kills a control plane, works without it, and starts it again. The cluster was perhaps begun by it.
func (c three) loses(plane string) {
	c.t.Helper()
	began := time.Now()
	c.docker("kill", plane)
	c.answers()
	// Somebody else changes the cluster, to whom the control plane is no loss: nothing is started either.
	unlock := c.locked(c.planes[len(c.planes)-1], "/run/nodeimg/lease")
	for _, args := range [][]string{{"resize", "--workers", "2"}, {"start"}} {
		c.refused(2, "another nodeimg changes", append(args, "--name", c.name, "--wait", "3s")...)
	}
	unlock()
	c.expectNodes(c.name, func(name, state, _ string) bool { return (state == "running") == (name != plane) }, c.all)
	c.must("resize", "--name", c.name, "--workers", "2", "--progress", "plain")
	c.must("resize", "--name", c.name, "--workers", "1", "--progress", "plain")
	c.must("start", "--name", c.name, "--progress", "plain")
	c.whole(began, plane)
}

// answers waits until an API server answers at the published address.
func (c three) answers() {
	c.t.Helper()
	c.succeeds(func(ctx context.Context) error {
		_, err := c.askNodes(ctx)
		return err
	})
}

// swapAddresses stops all containers and starts them so that each gets another one's address, control planes those of each other. The Engine
// gives out the lowest ones first.
func (c three) swapAddresses() {
	c.t.Helper()
	was := c.addresses(c.all)
	gets := map[string]string{was[c.worker]: c.balancer, was[c.balancer]: c.worker}
	for i, name := range c.planes {
		gets[was[name]] = c.planes[(i+1)%len(c.planes)]
	}
	c.must("stop", "--name", c.name)
	for _, address := range slices.Sorted(maps.Keys(gets)) {
		c.docker("start", gets[address])
	}
	now := c.addresses(c.all)
	for address, name := range gets {
		if now[name] != address {
			c.t.Errorf("%s has the address %s, not %s", name, now[name], address)
		}
	}
	c.must("start", "--name", c.name, "--progress", "plain")
}

// restarted does what starts containers again, and waits until the cluster is whole.
func (c three) restarted(what string, do func()) {
	c.t.Helper()
	reached := command.Stopwatch(c.t)
	since := time.Now()
	was := c.addresses(c.all)
	do()
	reached(what)
	now := c.addresses(c.all)
	changed := slices.DeleteFunc(slices.Clone(c.all), func(name string) bool { return was[name] == now[name] })
	c.whole(since, c.nodes...)
	reached(fmt.Sprintf("whole again with other addresses of %v", changed))
}

// whole waits until those that have started after the time have said since that they are Ready, and everything answers where it is now.
func (c three) whole(since time.Time, started ...string) {
	c.t.Helper()
	c.readySince(c.name, since, started...)
	now := c.addresses(c.all)
	var planes []string
	for _, name := range c.planes {
		planes = append(planes, now[name])
		// That includes its member of etcd.
		c.succeeds(func(ctx context.Context) error {
			_, err := c.ask(ctx, name, "get", "--raw", "/readyz", "--server", "https://"+now[name]+":6443")
			return err
		})
	}
	slices.Sort(planes)
	c.succeeds(func(ctx context.Context) error {
		out, err := c.ask(ctx, c.planes[0], "get", "endpointslice", "kubernetes", "-o", "jsonpath={.endpoints[*].addresses[*]}")
		if found := slices.Sorted(slices.Values(strings.Fields(out))); err == nil && !slices.Equal(found, planes) {
			err = fmt.Errorf("the service kubernetes leads to %v, want %v", found, planes)
		}
		return err
	})
	c.succeeds(func(ctx context.Context) error {
		out, err := c.ask(ctx, c.planes[0], "get", "pods", "-n", "kube-system", "-o",
			`jsonpath={range .items[*]}{.metadata.name} {.status.conditions[?(@.type=="Ready")].status} {.spec.nodeName} {.status.hostIP}{"\n"}{end}`)
		for line := range strings.Lines(out) {
			if pod := strings.Fields(line); len(pod) != 4 || pod[1] != "True" || pod[3] != now[pod[2]] {
				err = errors.Join(err, errors.New(line))
			}
		}
		return err
	})
	c.succeeds(func(ctx context.Context) error {
		ready, err := c.askNodes(ctx)
		if err == nil && !slices.Equal(ready, c.nodes) {
			err = fmt.Errorf("Ready nodes at the published address: %v", ready)
		}
		return err
	})
}

// ask runs a command of kubectl in a control plane.
func (l launcher) ask(ctx context.Context, plane string, args ...string) (string, error) {
	out, err := exec.CommandContext(ctx, "docker", append([]string{"--host", l.host, "exec", plane}, kubectl(args...)...)...).CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("kubectl in %s: %w: %s", plane, err, out)
	}
	return string(out), nil
}

// wreck is what tells why a cluster of several control planes does not work.
func (l launcher) wreck(cluster string) string {
	const script = `for n in $(docker ps --all --quiet --filter label=nodeimg.dev/cluster=$0); do
		docker inspect --format '{{.Name}} {{.State.Status}} {{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}' "$n"
		docker logs --tail 15 "$n"
		docker exec "$n" sh -c 'crictl ps -a; journalctl --no-pager -n 15 -u kubelet; cd /var/log/pods && tail -n 8 kube-system_etcd*/*/*.log kube-system_kube-apiserver*/*/*.log kube-system_kube-proxy*/*/*.log'
	done 2>&1 | cut -c1-400`
	// The test's own context has ended.
	cmd := exec.CommandContext(context.WithoutCancel(l.t.Context()), "sh", "-c", script, cluster)
	cmd.Env = append(os.Environ(), "DOCKER_HOST="+l.host)
	out, err := cmd.CombinedOutput()
	return fmt.Sprintf("%s%v", out, err)
}

// succeeds waits until check succeeds.
func (l launcher) succeeds(check func(context.Context) error) {
	l.t.Helper()
	ctx, cancel := context.WithTimeout(l.t.Context(), wait)
	defer cancel()
	for {
		err := check(ctx)
		if err == nil {
			return
		}
		select {
		case <-ctx.Done():
			l.t.Fatal(err)
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// expectNodes asks nodeimg for the nodes of a cluster until each of them is good. It calls them unknown when the API server is slow.
func (l launcher) expectNodes(cluster string, good func(name, state, status string) bool, names []string) {
	l.t.Helper()
	l.succeeds(func(context.Context) error {
		var nodes []struct{ Name, State, Status string }
		text := l.must("nodes", "--name", cluster, "-o", "json")
		if err := json.Unmarshal([]byte(text), &nodes); err != nil {
			return fmt.Errorf("%w: %s", err, text)
		}
		var listed []string
		for _, n := range nodes {
			listed = append(listed, n.Name)
			if !good(n.Name, n.State, n.Status) {
				return fmt.Errorf("%s is %s and %s", n.Name, n.State, n.Status)
			}
		}
		if !slices.Equal(listed, names) {
			return fmt.Errorf("nodes: %v, want %v", listed, names)
		}
		return nil
	})
}

// addresses are those of containers in their only network.
func (l launcher) addresses(names []string) map[string]string {
	l.t.Helper()
	found := map[string]string{}
	for _, name := range names {
		found[name] = strings.TrimSpace(l.docker("inspect", "--format", "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}", name))
	}
	if len(slices.Compact(slices.Sorted(maps.Values(found)))) != len(names) {
		l.t.Fatalf("addresses: %v", found)
	}
	return found
}
