package clusters

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nodeimg/nodeimg/test/internal/command"
	"github.com/nodeimg/nodeimg/test/internal/engine"
)

// TestEngineEnds ends the Docker Engine in the middle of nodeimg's work and below a cluster that runs, and starts it again.
func TestEngineEnds(t *testing.T) {
	running, l := ownEngine(t, engine.Options{})
	buildClusterImage(t.Context(), t, l.host)
	const cluster = "engine-ends"
	before := l.has()
	reached := command.Stopwatch(t)
	ends := func(how func(context.Context) error) func() {
		return func() {
			if err := how(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
	}
	again := ends(running.Restart)

	up := []string{"up", clusterImage, "--name", cluster, "--workers", "1", "--privileged"}
	for _, step := range []string{"boot", "kubeadm init"} {
		status, stderr := l.interrupted(step, ends(running.Kill), up...)
		for _, want := range []string{"the Docker Engine does not answer", "nodeimg down --name " + cluster} {
			if status != 1 || !strings.Contains(stderr, want) {
				t.Errorf("the Engine has ended at %s: exit status %d, want 1 and %q in\n%s", step, status, want, stderr)
			}
		}
		again()
		reached("Engine killed at " + step)
	}
	l.must(up...)
	reached("up")

	for name, end := range map[string]func(context.Context) error{"shut down": running.Shutdown, "killed": running.Kill} {
		ends(end)()
		restarted := time.Now()
		again()
		nodes := []string{cluster + "-control-plane-1", cluster + "-worker-1"}
		l.readySince(cluster, restarted, nodes...)
		for _, node := range nodes {
			l.podRuns(cluster, node)
		}
		reached("Ready again after the Engine was " + name)
	}

	if status, stderr := l.interrupted("[down]", ends(running.Kill), "down", "--name", cluster); status == 1 && !strings.Contains(stderr, "the Docker Engine does not answer") {
		t.Errorf("the Engine has ended while nodeimg removed a cluster: exit status %d\n%s", status, stderr)
	}
	again()
	if l.has() != before {
		l.must("down", "--name", cluster)
	}
	if after := l.has(); after != before {
		t.Errorf("down left something:\n%s\nbefore:\n%s", after, before)
	}
	reached("removed")
}

// ownEngine starts an Engine that ends with the test.
func ownEngine(t *testing.T, options engine.Options) (*engine.Engine, launcher) {
	t.Helper()
	running, err := engine.Start(t.Context(), options)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Log("the Engine's log:\n" + running.Log())
		}
		if err := running.Stop(); err != nil {
			t.Error(err)
		}
	})
	return running, launcher{t: t, host: running.Host(), kubeconfig: filepath.Join(t.TempDir(), "kube", "config"), dial: running.Dial}
}

// interrupted runs nodeimg, calls do when a step begins whose name has the words, and returns nodeimg's exit status and what it said beside
// its steps.
func (l launcher) interrupted(words string, do func(), args ...string) (status int, said string) {
	l.t.Helper()
	done := false
	status, said = l.stepwise(func(_ int, step string, _ *os.Process) {
		if !done && strings.Contains(step, words) {
			done = true
			do()
		}
	}, args...)
	if !done {
		l.t.Fatalf("nodeimg %q has no step %q:\n%s", args, words, said)
	}
	return status, said
}

// readySince waits until the nodes have said after the time that they are Ready. One that goes on as before says so every few minutes only.
func (l launcher) readySince(cluster string, since time.Time, nodes ...string) {
	l.t.Helper()
	l.succeeds(func(ctx context.Context) error {
		out, err := l.ask(ctx, cluster+"-control-plane-1", "get", "nodes", "-o",
			`jsonpath={range .items[*]}{.metadata.name} {.status.conditions[?(@.type=="Ready")].status} {.status.conditions[?(@.type=="Ready")].lastHeartbeatTime}{"\n"}{end}`)
		ready := map[string]bool{}
		for line := range strings.Lines(out) {
			if f := strings.Fields(line); len(f) == 3 && f[1] == "True" {
				at, err := time.Parse(time.RFC3339, f[2])
				ready[f[0]] = err == nil && at.After(since)
			}
		}
		for _, node := range nodes {
			if err == nil && !ready[node] {
				err = fmt.Errorf("%s has not said since %s that it is Ready:\n%s", node, since, out)
			}
		}
		return err
	})
}
