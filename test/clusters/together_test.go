package clusters

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/nodeimg/nodeimg/test/internal/command"
)

// TestTogether lets two users, whose locks know nothing of each other, work at one cluster at the same time.
func TestTogether(t *testing.T) {
	l := clusters(t)
	const cluster = "together"
	before := l.has()
	reached := command.Stopwatch(t)
	users := []user{{l, t.TempDir()}, {l, t.TempDir()}}
	up := []string{"up", clusterImage, "--name", cluster, "--privileged"}

	// One makes a cluster; the other one can neither make it anew nor change it, only remove it.
	made := users[0].begin("up", clusterImage, "--name", cluster, "--privileged", "--workers", "1")
	l.until(func() bool { return strings.Count(l.docker("ps", "--format", "{{.Names}}"), cluster+"-") == 2 })
	with := l.has()
	users[1].refused("half-made", up...)
	users[1].refused("half-made", "resize", "--name", cluster, "--workers", "0")
	if after := l.has(); after != with {
		t.Errorf("what was refused changed something:\n%s\nbefore:\n%s", after, with)
	}
	if err := made.cmd.Process.Signal(syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	_ = made.wait()
	users[1].refused("half-made", up...)
	l.refused(2, "half-made", "start", "--name", cluster)
	if status := users[1].begin("down", "--name", cluster).wait(); status != 0 {
		t.Errorf("removing another user's half-made cluster: exit status %d", status)
	}
	if after := l.has(); after != before {
		t.Errorf("down left something:\n%s\nbefore:\n%s", after, before)
	}
	reached("half-made cluster refused and removed")

	// Both begin at once.
	results := together(users, func(int) []string { return up })
	winner, loser := results[0], results[1]
	if winner.status != 0 {
		winner, loser = loser, winner
	}
	if winner.status != 0 || loser.status != 2 || !strings.Contains(loser.said, cluster+" is half-made, and another nodeimg, of ") {
		t.Fatalf("two at once: exit status %d\n%s\nand %d\n%s", winner.status, winner.said, loser.status, loser.said)
	}
	l.kubectl(cluster, "wait", "--for=condition=Ready", "node", "--all", "--timeout=10s")
	reached("one of two made the cluster")

	// Both change it: they take turns, in whatever order.
	for i, result := range together(users, func(i int) []string { return []string{"resize", "--name", cluster, "--workers", fmt.Sprint(1 + i)} }) {
		if result.status != 0 {
			t.Errorf("resize to %d workers: exit status %d\n%s", 1+i, result.status, result.said)
		}
	}
	l.kubectl(cluster, "wait", "--for=condition=Ready", "node", "--all", "--timeout=10s")
	nodes, containers := l.kubectl(cluster, "get", "nodes", "-o", "name"), l.docker("ps", "--format", "{{.Names}}")
	for _, node := range strings.Fields(nodes) {
		if !strings.Contains(containers, strings.TrimPrefix(node, "node/")) {
			t.Errorf("Kubernetes knows\n%sthe Engine\n%s", nodes, containers)
		}
	}
	reached("both changed it")
	for _, result := range together(users, func(int) []string { return []string{"down", "--name", cluster} }) {
		if result.status != 0 && !strings.Contains(result.said, "there is no cluster") {
			t.Errorf("two downs at once: exit status %d\n%s", result.status, result.said)
		}
	}
	if after := l.has(); after != before {
		t.Errorf("down left something:\n%s\nbefore:\n%s", after, before)
	}
}

// user runs nodeimg with a home of its own.
type user struct {
	launcher
	home string
}

// begin starts nodeimg.
func (u user) begin(args ...string) *begun {
	u.t.Helper()
	b := &begun{t: u.t, cmd: u.command(args...)}
	b.cmd.Env = append(b.cmd.Env, "HOME="+u.home, "XDG_CACHE_HOME=", "NODEIMG_CACHE=", "KUBECONFIG="+u.home+"/config")
	b.cmd.Stderr = &b.said
	if err := b.cmd.Start(); err != nil {
		u.t.Fatal(err)
	}
	return b
}

// refused is begin for what has to fail as bad input, with the words.
func (u user) refused(words string, args ...string) {
	u.t.Helper()
	b := u.begin(args...)
	if status := b.wait(); status != 2 || !strings.Contains(b.said.String(), words) {
		u.t.Errorf("nodeimg %q: exit status %d, want 2 and %q in\n%s", args, status, words, b.said.String())
	}
	if _, err := os.Stat(u.home + "/config"); err == nil {
		u.t.Errorf("nodeimg %q was refused and wrote a kubeconfig", args)
	}
}

// begun is a nodeimg that runs.
type begun struct {
	t    *testing.T
	cmd  *exec.Cmd
	said bytes.Buffer
}

// wait waits for its end and returns the exit status, -1 after a signal.
func (b *begun) wait() int {
	if err := b.cmd.Wait(); err != nil && b.cmd.ProcessState == nil {
		b.t.Error(err)
	}
	return b.cmd.ProcessState.ExitCode()
}

// result is how a nodeimg has ended.
type result struct {
	status int
	said   string
}

// together runs nodeimg for all users at once.
func together(users []user, args func(i int) []string) []result {
	results := make([]result, len(users))
	var group sync.WaitGroup
	for i, u := range users {
		b := u.begin(args(i)...)
		group.Go(func() { results[i] = result{b.wait(), b.said.String()} })
	}
	group.Wait()
	return results
}
