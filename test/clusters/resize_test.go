package clusters

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/nodeimg/nodeimg/test/internal/command"
)

// resized changes how many workers the cluster has, which has one, and gives it back as it was.
func resized(l launcher, cluster string) {
	l.t.Helper()
	reached := command.Stopwatch(l.t)
	before := l.has()
	l.refused(2, "workers", "resize", "--name", cluster)
	l.refused(2, "expected 0 or more", "resize", "--name", cluster, "--workers", "-1")
	l.refused(2, "there is no cluster", "resize", "--name", cluster+"-not", "--workers", "1")
	l.refused(2, "no such file or folder", "resize", "--name", cluster, "--workers", "2", "--image", "nodeimg-clusters/missing")
	l.refused(2, "not a node image", "resize", "--name", cluster, "--workers", "2", "--image", l.emptyImage("plain"))
	newer := l.emptyImage("newer", "--change", "LABEL dev.nodeimg.kubernetes=v1.99.0")
	l.refused(2, "must not be newer", "resize", "--name", cluster, "--workers", "2", "--image", newer)
	// Whoever has no time changes nothing.
	l.refused(1, "not within", "resize", "--name", cluster, "--workers", "2", "--wait", "1ms")
	if after := l.has(); after != before {
		l.t.Errorf("a resize that failed left something:\n%s\nbefore:\n%s", after, before)
	}

	reached("refused")
	l.must("resize", "--name", cluster, "--workers", "3", "--progress", "plain")
	reached("two more workers Ready")
	if ready := fmt.Sprint(l.nodes()); ready != fmt.Sprintf("[%[1]s-control-plane-1 %[1]s-worker-1 %[1]s-worker-2 %[1]s-worker-3]", cluster) {
		l.t.Errorf("Ready nodes: %v", ready)
	}
	with := l.has()
	l.must("resize", "--name", cluster, "--workers", "3")
	if after := l.has(); after != with {
		l.t.Errorf("the same resize again changed something:\n%s\nbefore:\n%s", after, with)
	}

	// Pods that may not be evicted keep their workers, which take pods again.
	image := l.imageOf(cluster+"-worker-1", "pause")
	l.kubectl(cluster, "create", "deployment", "moved", "--replicas=3", "--image="+image)
	l.kubectl(cluster, "wait", "--for=condition=Available", "deployment/moved", "--timeout="+wait.String())
	l.kubectl(cluster, "create", "poddisruptionbudget", "none", "--selector=app=moved", "--min-available=100%")
	// Where those run is up to the scheduler.
	l.kubectl(cluster, "run", "pinned", "--image="+image, "--labels=app=pinned", `--overrides={"spec": {"nodeName": "`+cluster+`-worker-3"}}`)
	l.kubectl(cluster, "wait", "--for=condition=Ready", "pod/pinned", "--timeout="+wait.String())
	l.kubectl(cluster, "create", "poddisruptionbudget", "pinned", "--selector=app=pinned", "--min-available=1")
	unschedulable := func() bool { return strings.Contains(l.kubectl(cluster, "get", "nodes"), "SchedulingDisabled") }
	taints := func() string {
		return l.kubectl(cluster, "get", "node", cluster+"-control-plane-1", "-o", "jsonpath={.spec.taints}")
	}
	reserved := taints()
	kept := func(how string) {
		l.t.Helper()
		if after := l.has(); after != with {
			l.t.Errorf("a resize that %s changed something:\n%s\nbefore:\n%s", how, after, with)
		}
		if unschedulable() {
			l.t.Errorf("after a resize that %s, nodes that are kept take no pods", how)
		}
		if now := taints(); now != reserved || !strings.Contains(now, "NoSchedule") {
			l.t.Errorf("after a resize that %s, the control plane has the taints %s, before %s", how, now, reserved)
		}
	}
	l.refused(1, "moving the pods", "resize", "--name", cluster, "--workers", "1", "--wait", "20s")
	kept("could not move pods")
	// One that is cut off leaves nothing that moves them later.
	for how, test := range map[string]struct {
		do   func(*os.Process)
		says string
	}{
		"was interrupted": {func(process *os.Process) { _ = process.Signal(syscall.SIGINT) }, "Error: interrupted\n"},
		"lost its lock":   {func(*os.Process) { l.unlock(cluster + "-control-plane-1") }, "the lock of the cluster " + cluster},
	} {
		status, said := l.stepwise(func(_ int, step string, process *os.Process) {
			if strings.HasPrefix(step, "[drain]") {
				l.until(unschedulable)
				test.do(process)
			}
		}, "resize", "--name", cluster, "--workers", "0", "--wait", "2m")
		if status != 1 || !strings.Contains(said, test.says) {
			l.t.Errorf("a resize that %s: exit status %d, want 1 and %q in\n%s", how, status, test.says, said)
		}
		kept(how)
		if l.drains(cluster) {
			l.t.Errorf("a drain goes on after a resize that %s", how)
		}
	}
	l.kubectl(cluster, "delete", "poddisruptionbudget/none", "poddisruptionbudget/pinned", "pod/pinned")

	// One worker is lost, and the resize that makes it anew is killed.
	lost := cluster + "-worker-3"
	l.docker("rm", "--force", "--volumes", lost)
	killedWhen(l, lost, "resize", "--name", cluster, "--workers", "3")
	l.must("resize", "--name", cluster, "--workers", "1", "--progress", "plain")
	reached("one worker")
	if after := l.has(); after != before {
		l.t.Errorf("shrinking left something:\n%s\nbefore:\n%s", after, before)
	}
	l.kubectl(cluster, "wait", "--for=condition=Available", "deployment/moved", "--timeout="+wait.String())
	l.kubectl(cluster, "delete", "deployment", "moved")
	reached("pods moved")
	if known := l.kubectl(cluster, "get", "nodes", "-o", "name"); known != fmt.Sprintf("node/%[1]s-control-plane-1\nnode/%[1]s-worker-1\n", cluster) {
		l.t.Errorf("Kubernetes knows the nodes\n%s", known)
	}
}

// stopped stops the cluster and starts it again.
func stopped(l launcher, cluster string) {
	l.t.Helper()
	reached := command.Stopwatch(l.t)
	before := l.has()
	version := strings.TrimSpace(l.docker("exec", cluster+"-control-plane-1", "kubelet", "--version"))
	version = version[strings.LastIndex(version, " ")+1:]
	l.expect(cluster, "running", "Ready", version)
	for range 2 {
		l.must("stop", "--name", cluster, "--progress", "plain")
	}
	reached("stopped")
	l.expect(cluster, "exited", "unknown", "unknown")
	l.refused(2, "nodeimg start", "resize", "--name", cluster, "--workers", "1")
	for range 2 {
		l.must("start", "--name", cluster, "--progress", "plain")
		reached("started")
		l.expect(cluster, "running", "Ready", version)
	}
	if ready := fmt.Sprint(l.nodes()); ready != fmt.Sprintf("[%[1]s-control-plane-1 %[1]s-worker-1]", cluster) {
		l.t.Errorf("Ready nodes at the address that the kubeconfig has: %v", ready)
	}
	if after := l.has(); after != before {
		l.t.Errorf("stop and start changed something:\n%s\nbefore:\n%s", after, before)
	}
}

// expect asks nodeimg for the nodes of a cluster with one worker until they are all in the same state. It says unknown when the API server
// is slow.
func (l launcher) expect(cluster, state, status, version string) {
	l.t.Helper()
	want := fmt.Sprintf("[{%[1]s-control-plane-1 control-plane %[2]s %[3]s %[4]s} {%[1]s-worker-1 worker %[2]s %[3]s %[4]s}]", cluster, state, status, version)
	l.succeeds(func(context.Context) error {
		var nodes []struct{ Name, Role, State, Status, Version string }
		text := l.must("nodes", "--name", cluster, "-o", "json")
		if err := json.Unmarshal([]byte(text), &nodes); err != nil {
			return fmt.Errorf("%w: %s", err, text)
		}
		if got := fmt.Sprint(nodes); got != want {
			return fmt.Errorf("nodes:\n%s\nwant:\n%s", got, want)
		}
		return nil
	})
}

// drains says whether kubectl drain runs in the control plane, for a resize. The pattern is not what it looks for.
func (l launcher) drains(cluster string) bool {
	l.t.Helper()
	return l.docker("exec", cluster+"-control-plane-1", "sh", "-c", "grep -ls '[s]kip-wait-for-delete' /proc/[0-9]*/cmdline || true") != ""
}

// unlock kills whatever holds the lock of a cluster in a control plane.
func (l launcher) unlock(plane string) {
	l.t.Helper()
	l.docker("exec", plane, "sh", "-c", `for p in /proc/[0-9]*; do
		if ls -l "$p/fd" 2>/dev/null | grep -q /run/nodeimg/lease; then kill -9 "${p#/proc/}"; echo killed; fi
	done | grep killed`)
}

// kubectl runs a command of kubectl in the control plane.
func (l launcher) kubectl(cluster string, args ...string) string {
	l.t.Helper()
	return l.docker(append([]string{"exec", cluster + "-control-plane-1", "kubectl", "--kubeconfig", "/etc/kubernetes/admin.conf"}, args...)...)
}

// emptyImage makes an image without content that ends with the Engine.
func (l launcher) emptyImage(name string, options ...string) string {
	l.t.Helper()
	archive := filepath.Join(l.t.TempDir(), "empty.tar")
	f, err := os.Create(archive)
	if err != nil {
		l.t.Fatal(err)
	}
	defer f.Close()
	if err := tar.NewWriter(f).Close(); err != nil {
		l.t.Fatal(err)
	}
	image := "nodeimg-clusters/" + name + ":empty"
	l.docker(append(append([]string{"import"}, options...), archive, image)...)
	return image
}

// killedWhen kills a nodeimg as soon as the container runs that it makes.
func killedWhen(l launcher, container string, args ...string) {
	l.t.Helper()
	killedWhenever(l, func() bool { return strings.Contains(l.docker("ps", "--format", "{{.Names}}"), container) }, args...)
}

// until waits for the condition.
func (l launcher) until(condition func() bool) {
	l.t.Helper()
	ctx, cancel := context.WithTimeout(l.t.Context(), wait)
	defer cancel()
	for !condition() {
		select {
		case <-ctx.Done():
			l.t.Fatal("it never came so far")
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// killedWhenever kills a nodeimg as soon as the condition holds.
func killedWhenever(l launcher, condition func() bool, args ...string) {
	l.t.Helper()
	cmd := l.command(args...)
	var said bytes.Buffer
	cmd.Stderr = &said
	if err := cmd.Start(); err != nil {
		l.t.Fatal(err)
	}
	l.until(condition)
	if err := cmd.Process.Signal(syscall.SIGKILL); err != nil {
		l.t.Fatal(err)
	}
	if err := cmd.Wait(); cmd.ProcessState.ExitCode() != -1 {
		l.t.Fatalf("nodeimg %q ended before it was killed: %v\n%s", args, err, said.String())
	}
}
