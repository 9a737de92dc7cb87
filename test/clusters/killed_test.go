package clusters

import (
	"bufio"
	"bytes"
	"encoding/json"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/moby/buildkit/client"
	"github.com/opencontainers/go-digest"

	"github.com/nodeimg/nodeimg/test/internal/command"
)

// TestKilled kills nodeimg whenever a step of it begins, and runs the same command again or down.
func TestKilled(t *testing.T) {
	l := clusters(t)
	const cluster, worker = "killed-often", "killed-often-worker-1"
	before := l.has()
	gone := func(what string) {
		t.Helper()
		if after := l.has(); after != before {
			t.Errorf("%s left something:\n%s\nbefore:\n%s", what, after, before)
		}
		stray := strayRules(t)
		// Another Engine on this host may be about to remove a network.
		for end := time.Now().Add(10 * time.Second); len(stray) > 0 && time.Now().Before(end); stray = strayRules(t) {
			time.Sleep(200 * time.Millisecond)
		}
		if len(stray) > 0 {
			t.Errorf("%s left packet filter rules:\n%s", what, strings.Join(stray, ""))
		}
		if text, err := os.ReadFile(l.kubeconfig); err == nil && bytes.Contains(text, []byte(cluster)) {
			t.Errorf("%s left the context:\n%s", what, text)
		}
	}
	reached := command.Stopwatch(t)

	// Each begins with what the one before has left.
	up := []string{"up", clusterImage, "--name", cluster, "--privileged"}
	steps := 0
	for n := 1; killedAt(l, n, up...); n++ {
		if steps = n; n%2 == 0 {
			downKilled(l, cluster)
			gone("down after up was killed")
		}
	}
	if steps < 5 {
		t.Errorf("up has %d steps, which is not the up that this test is about", steps)
	}
	reached("up killed at each step")
	l.kubectl(cluster, "wait", "--for=condition=Ready", "node", "--all", "--timeout="+wait.String())

	archive := "archive:" + savedApp(t, "example/killed:v1")
	for n := 1; killedAt(l, n, "load", "--name", cluster, archive); n++ {
	}
	l.docker("exec", cluster+"-control-plane-1", "crictl", "inspecti", "-q", "example/killed:v1")
	reached("load killed at each step")

	// What no container mounts goes, and from here on everything works without it.
	l.docker("volume", "prune", "--all", "--force", "--filter", "label=nodeimg.dev/cluster="+cluster)
	pruned := l.has()
	if strings.Contains(pruned, "nodeimg-"+cluster+"-") {
		t.Errorf("this prune was to take the volumes that hold nothing:\n%s", pruned)
	}
	l.refused(2, cluster+" is there already", up...)
	if after := l.has(); after != pruned {
		t.Errorf("up of a cluster whose volumes were pruned changed something:\n%s\nbefore:\n%s", after, pruned)
	}
	l.must("start", "--name", cluster)
	reached("pruned")

	for n := 1; killedAt(l, n, "resize", "--name", cluster, "--workers", "1"); n++ {
	}
	l.kubectl(cluster, "wait", "--for=condition=Ready", "node/"+worker, "--timeout=10s")
	reached("growing killed at each step")
	cordoned(l, cluster, worker)
	reached("worker takes pods again")
	killedContainers(l, cluster)
	reached("nodes killed")
	for n := 1; killedAt(l, n, "resize", "--name", cluster, "--workers", "0"); n++ {
	}
	if known := l.kubectl(cluster, "get", "nodes", "-o", "name"); known != "node/"+cluster+"-control-plane-1\n" {
		t.Errorf("after shrinking, Kubernetes knows the nodes\n%s", known)
	}
	reached("shrinking killed at each step")

	downKilled(l, cluster)
	gone("down")
	reached("down killed")
	l.refused(2, "there is no cluster", "down", "--name", cluster)
}

// downKilled kills a down and lets the next one do what is left, which may be nothing.
func downKilled(l launcher, cluster string) {
	l.t.Helper()
	killedAt(l, 1, "down", "--name", cluster)
	if status, _, stderr := l.run("down", "--name", cluster); status != 0 && !strings.Contains(stderr, "there is no cluster") {
		l.t.Errorf("down after down was killed: exit status %d\n%s", status, stderr)
	}
}

// cordoned kills a resize that cannot move a pod, and looks whether the worker takes pods again afterwards, unless somebody else has
// cordoned it.
func cordoned(l launcher, cluster, worker string) {
	l.t.Helper()
	l.kubectl(cluster, "create", "deployment", "stays", "--image="+l.imageOf(worker, "pause"))
	l.kubectl(cluster, "patch", "deployment", "stays", "-p", `{"spec": {"template": {"spec": {"nodeName": "`+worker+`"}}}}`)
	l.kubectl(cluster, "rollout", "status", "deployment/stays", "--timeout="+wait.String())
	l.kubectl(cluster, "create", "poddisruptionbudget", "stays", "--selector=app=stays", "--min-available=100%")
	shrink := func(limit string) []string {
		return []string{"resize", "--name", cluster, "--workers", "0", "--wait", limit}
	}
	unschedulable := func() bool {
		return l.kubectl(cluster, "get", "node", worker, "-o", "jsonpath={.spec.unschedulable}") == "true"
	}
	for _, again := range [][]string{{"start"}, {"resize", "--workers", "1"}} {
		killedWhenever(l, unschedulable, shrink("1h")...)
		l.until(func() bool { return !l.drains(cluster) })
		l.must(append(again, "--name", cluster)...)
		if unschedulable() {
			l.t.Errorf("the worker takes no pods after %q", again)
		}
	}
	l.kubectl(cluster, "cordon", worker)
	l.refused(1, "moving the pods", shrink("20s")...)
	l.must("resize", "--name", cluster, "--workers", "1")
	if !unschedulable() {
		l.t.Error("a worker that the user has cordoned takes pods again")
	}
	l.kubectl(cluster, "uncordon", worker)
	l.kubectl(cluster, "delete", "poddisruptionbudget/stays", "deployment/stays")
}

// killedContainers kills the containers of a cluster and starts them again, one by one, without nodeimg.
func killedContainers(l launcher, cluster string) {
	l.t.Helper()
	for _, node := range []string{cluster + "-worker-1", cluster + "-control-plane-1"} {
		l.docker("kill", node)
		l.docker("start", node)
		l.must("start", "--name", cluster)
		l.podRuns(cluster, node)
	}
}

// podRuns runs a new pod on the node to its end.
func (l launcher) podRuns(cluster, node string) {
	l.t.Helper()
	name := "runs-" + node
	l.kubectl(cluster, "run", name, "--image="+l.imageOf(node, "etcd"), "--image-pull-policy=Never", "--restart=Never",
		`--overrides={"spec": {"nodeName": "`+node+`"}}`, "--command", "--", "etcd", "--version")
	l.kubectl(cluster, "wait", "--for=jsonpath={.status.phase}=Succeeded", "pod/"+name, "--timeout="+wait.String())
	l.kubectl(cluster, "delete", "pod", name)
}

// imageOf waits until the node's container runtime tells the name of an image that has the word in it.
func (l launcher) imageOf(node, word string) (image string) {
	l.t.Helper()
	l.until(func() bool {
		image = strings.TrimSpace(l.docker("exec", node, "sh", "-c", `crictl images 2>/dev/null | awk '/`+word+`/ { print $1 ":" $2; exit }'`))
		return image != ""
	})
	return image
}

// killedAt kills nodeimg when its nth step begins, and returns false when it has ended well before that.
func killedAt(l launcher, n int, args ...string) bool {
	l.t.Helper()
	status, said := l.stepwise(func(i int, step string, process *os.Process) {
		if i != n {
			return
		}
		l.t.Logf("nodeimg %s killed at %s", args[0], step)
		if err := process.Signal(syscall.SIGKILL); err != nil {
			l.t.Fatal(err)
		}
	}, args...)
	if status > 0 {
		l.t.Fatalf("nodeimg %q, which was to work after being killed: exit status %d\n%s", args, status, said)
	}
	return status < 0
}

// stepwise runs nodeimg and calls begins for each step, which count from 1. It returns the exit status, -1 after a signal, and what nodeimg
// has said beside its steps.
func (l launcher) stepwise(begins func(n int, step string, process *os.Process), args ...string) (status int, said string) {
	l.t.Helper()
	cmd := l.command(append(slices.Clone(args), "--progress", "rawjson")...)
	stderr, err := cmd.StderrPipe()
	if err != nil {
		l.t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		l.t.Fatal(err)
	}
	var text bytes.Buffer
	begun := map[digest.Digest]bool{}
	lines := bufio.NewScanner(stderr)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		var shown client.SolveStatus
		if json.Unmarshal(lines.Bytes(), &shown) != nil {
			text.Write(append(lines.Bytes(), '\n'))
		}
		for _, vertex := range shown.Vertexes {
			if !begun[vertex.Digest] {
				begun[vertex.Digest] = true
				begins(len(begun), vertex.Name, cmd.Process)
			}
		}
	}
	if err := cmd.Wait(); err != nil && cmd.ProcessState == nil {
		l.t.Fatal(err)
	}
	return cmd.ProcessState.ExitCode(), text.String()
}

// bridge is the name that the Engine gives a network's link.
var bridge = regexp.MustCompile(`\bbr-[0-9a-f]{12}\b`)

// strayRules are the host's packet filter rules about networks that are not there any more.
func strayRules(t *testing.T) (stray []string) {
	t.Helper()
	for _, program := range []string{"iptables-save", "ip6tables-save"} {
		out, err := exec.CommandContext(t.Context(), program).Output()
		if err != nil {
			t.Fatalf("%s: %v", program, err)
		}
		for line := range strings.Lines(string(out)) {
			if name := bridge.FindString(line); name != "" {
				if _, err := os.Stat("/sys/class/net/" + name); err != nil {
					stray = append(stray, program+": "+line)
				}
			}
		}
	}
	return stray
}
