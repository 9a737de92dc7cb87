package clusters

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nodeimg/nodeimg/test/internal/command"
)

// TestControlPlanes makes a cluster of three control planes, which goes on without one of them, and comes back when all its containers
// start again with each other's addresses.
func TestControlPlanes(t *testing.T) {
	l := clusters(t)
	before := l.has()
	const cluster = "three"
	plane := func(n int) string { return fmt.Sprintf("%s-control-plane-%d", cluster, n) }
	planes := []string{plane(1), plane(2), plane(3)}
	balancer, worker := cluster+"-load-balancer", cluster+"-worker-1"

	t.Cleanup(func() {
		if t.Failed() {
			t.Log(l.wreck(cluster))
		}
	})
	reached := command.Stopwatch(t)
	l.must("up", clusterImage, "--name", cluster, "--control-planes", "3", "--workers", "1", "--privileged", "--progress", "plain")
	reached("three control planes and a worker Ready")
	if ready := fmt.Sprint(l.nodes()); ready != fmt.Sprint(append(slices.Clone(planes), worker)) {
		t.Errorf("Ready nodes at the published address: %v", ready)
	}
	if who := l.docker("exec", balancer, "sh", "-c", "id -u; grep CapBnd /proc/self/status; touch /written 2>&1 || true"); !strings.HasPrefix(who, "65534\n") ||
		!strings.Contains(who, "CapBnd:\t0000000000000000") || !strings.Contains(who, "Read-only file system") {
		t.Errorf("the load balancer has what it does not need:\n%s", who)
	}
	l.expectNodes(cluster, func(name, state, status string) bool {
		return state == "running" && (status == "Ready" || name == balancer && status == "")
	}, append(slices.Clone(planes), worker, balancer))

	// The cluster was begun by the node that goes.
	l.docker("kill", plane(1))
	l.succeeds(func(ctx context.Context) error {
		_, err := l.askNodes(ctx)
		return err
	})
	reached("the API server answers without the first control plane")
	l.expectNodes(cluster, func(name, state, _ string) bool { return (state == "running") == (name != plane(1)) }, append(slices.Clone(planes), worker, balancer))
	l.must("resize", "--name", cluster, "--workers", "2", "--progress", "plain")
	l.must("resize", "--name", cluster, "--workers", "1", "--progress", "plain")
	reached("resized without the first control plane")
	l.must("start", "--name", cluster, "--progress", "plain")
	reached("the first control plane Ready again")

	// Every address goes to another container.
	all := append(slices.Clone(planes), worker, balancer)
	was := l.addresses(all)
	l.docker(append([]string{"stop"}, all...)...)
	for _, name := range all {
		l.docker("network", "disconnect", "nodeimg-"+cluster, name)
		l.docker("network", "connect", "nodeimg-"+cluster, name)
	}
	l.docker("start", plane(3), worker, balancer, plane(1), plane(2))
	now := l.addresses(all)
	if fmt.Sprint(was) == fmt.Sprint(now) || !slices.ContainsFunc(planes, func(name string) bool {
		return slices.ContainsFunc(planes, func(other string) bool { return name != other && now[name] == was[other] })
	}) {
		t.Errorf("no control plane has another's address: %v, before %v", now, was)
	}
	l.must("start", "--name", cluster, "--progress", "plain")
	reached("Ready with each other's addresses")
	if ready := fmt.Sprint(l.nodes()); ready != fmt.Sprint(append(slices.Clone(planes), worker)) {
		t.Errorf("Ready nodes at the published address: %v", ready)
	}
	for _, name := range planes {
		l.succeeds(func(ctx context.Context) error {
			own := append(kubectl("get", "--raw", "/readyz"), "--server", "https://"+now[name]+":6443")
			out, err := exec.CommandContext(ctx, "docker", append([]string{"--host", l.host, "exec", name}, own...)...).CombinedOutput()
			if err != nil {
				return fmt.Errorf("%s at its own address: %w: %s", name, err, out)
			}
			return nil
		})
	}
	reached("every API server ready")

	l.must("down", "--name", cluster)
	reached("removed")
	if after := l.has(); after != before {
		t.Errorf("down left something:\n%s", after)
	}
}

// wreck is what tells why a cluster of several control planes does not work.
func (l launcher) wreck(cluster string) string {
	const script = `for n in $(docker ps --all --quiet --filter label=nodeimg.dev/cluster=$0); do
		docker inspect --format '{{.Name}} {{.State.Status}} {{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}' "$n"
		docker logs --tail 15 "$n"
		docker exec "$n" sh -c 'crictl ps -a; journalctl --no-pager -n 15 -u kubelet; cd /var/log/pods && tail -n 8 kube-system_etcd*/*/*.log kube-system_kube-apiserver*/*/*.log'
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

// expectNodes asks nodeimg for the nodes of a cluster and checks each of them.
func (l launcher) expectNodes(cluster string, good func(name, state, status string) bool, names []string) {
	l.t.Helper()
	var nodes []struct{ Name, State, Status string }
	text := l.must("nodes", "--name", cluster, "-o", "json")
	if err := json.Unmarshal([]byte(text), &nodes); err != nil {
		l.t.Fatalf("%v: %s", err, text)
	}
	var listed []string
	for _, n := range nodes {
		listed = append(listed, n.Name)
		if !good(n.Name, n.State, n.Status) {
			l.t.Errorf("%s is %s and %s", n.Name, n.State, n.Status)
		}
	}
	if !slices.Equal(listed, names) {
		l.t.Errorf("nodes: %v, want %v", listed, names)
	}
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
