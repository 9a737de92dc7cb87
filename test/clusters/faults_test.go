package clusters

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/nodeimg/nodeimg/test/internal/command"
)

// TestFaults makes clusters that cannot be: names are taken, images do not fit, a worker's kubelet is broken.
func TestFaults(t *testing.T) {
	l := clusters(t)
	before := l.has()
	reached := command.Stopwatch(t)
	up := []string{"up", clusterImage, "--name", "taken", "--privileged"}
	for name, test := range map[string]struct{ make, remove []string }{
		"nodeimg-taken":         {[]string{"network", "create"}, []string{"network", "rm"}},
		"nodeimg-taken-claim":   {[]string{"volume", "create"}, []string{"volume", "rm"}},
		"taken-control-plane-1": {[]string{"create", "--network", "none", "--name"}, []string{"rm", "--volumes"}},
	} {
		theirs := append(test.make, name)
		if test.make[0] == "create" {
			theirs = append(theirs, clusterImage)
		}
		l.docker(theirs...)
		with := l.has()
		l.refused(1, name+" is taken already: it is not this cluster's; remove it", up...)
		if after := l.has(); after != with {
			t.Errorf("%s is somebody else's, and up changed something:\n%s\nbefore:\n%s", name, after, with)
		}
		l.docker(append(test.remove, name)...)
	}
	reached("names taken")

	broken := filepath.Join(t.TempDir(), "broken")
	if err := os.WriteFile(broken, []byte("{not: [yaml"), 0o600); err != nil {
		t.Fatal(err)
	}
	l.refused(2, "mend it", "up", clusterImage, "--name", "other", "--privileged", "--kubeconfig", broken)
	l.refused(2, "is a folder", "up", clusterImage, "--name", "other", "--privileged", "--kubeconfig", t.TempDir())

	// Somebody locks the kubeconfig for good when the nodes are there already.
	lock := l.kubeconfig + ".lock"
	status, said := l.stepwise(func(_ int, begun string, _ *os.Process) {
		if strings.Contains(begun, "kubeadm init") {
			if err := errors.Join(os.MkdirAll(filepath.Dir(lock), 0o755), os.WriteFile(lock, nil, 0)); err != nil {
				t.Fatal(err)
			}
		}
	}, "up", clusterImage, "--name", "locked", "--privileged")
	if status != 1 || !strings.Contains(said, lock) {
		t.Errorf("the kubeconfig is locked: exit status %d, want 1 and %s in\n%s", status, lock, said)
	}
	if after := l.has(); after != before {
		t.Errorf("up could not write the kubeconfig and has left something:\n%s\nbefore:\n%s", after, before)
	}
	if err := os.Remove(lock); err != nil {
		t.Fatal(err)
	}
	reached("kubeconfig not written")

	text, err := os.ReadFile("/proc/sys/fs/inotify/max_user_instances")
	if err != nil {
		t.Fatal(err)
	}
	limit, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil {
		t.Fatal(err)
	}
	// Each node takes more than ten. The runtime that is not there keeps nodeimg from making them.
	l.refused(2, "sysctl -w fs.inotify.max_user_instances=", "up", clusterImage, "--name", "other", "--workers", fmt.Sprint(limit/10), "--privileged", "--runtime", "missing")

	l.refused(2, "not a node image", "up", l.emptyImage("not-a-node"), "--name", "other", "--privileged")
	for version, reason := range map[string]string{"v1.99.0": "must not be newer", "v1.30.1": "three minor releases older"} {
		image := l.emptyImage("skewed-"+version, "--change", "LABEL dev.nodeimg.kubernetes="+version)
		l.refused(2, reason, "up", "--config", workerOf(t, image), "--name", "other", "--privileged")
	}
	if after := l.has(); after != before {
		t.Errorf("images were refused, and up has left something:\n%s\nbefore:\n%s", after, before)
	}
	reached("images refused")

	interrupt := func(step string, signal os.Signal, options ...string) (status int, said string) {
		// Once: the second signal ends nodeimg at once, as users expect. Two nodes boot.
		var once sync.Once
		return l.stepwise(func(_ int, begun string, process *os.Process) {
			if strings.Contains(begun, step) {
				once.Do(func() { _ = process.Signal(signal) })
			}
		}, append([]string{"up", "--config", workerOf(t, clusterImage), "--name", "interrupted", "--privileged"}, options...)...)
	}
	for step, signal := range map[string]os.Signal{"[create]": syscall.SIGINT, "boot": syscall.SIGTERM} {
		status, said := interrupt(step, signal)
		if status != 1 || said != "Error: interrupted\n" {
			t.Errorf("%s at %s: exit status %d, want 1 and that it was interrupted in\n%s", signal, step, status, said)
		}
		if after := l.has(); after != before {
			t.Errorf("an interrupted up has left something:\n%s\nbefore:\n%s", after, before)
		}
	}
	if status, said := interrupt("boot", syscall.SIGINT, "--retain"); status != 1 || !strings.Contains(said, "nodeimg down --name interrupted removes it") {
		t.Errorf("an interrupted up --retain: exit status %d, want 1 and what is kept in\n%s", status, said)
	}
	l.must("down", "--name", "interrupted")
	reached("interrupted")

	status, _, stderr := l.run("up", "--config", workerOf(t, l.endingImage()), "--name", "other", "--privileged")
	for _, want := range []string{"node other-worker-1: its container does not last", "ends on purpose"} {
		if status != 1 || !strings.Contains(stderr, want) {
			t.Errorf("a node's container ends again and again: exit status %d, want 1 and %q in\n%s", status, want, stderr)
		}
	}
	if after := l.has(); after != before {
		t.Errorf("a node's container ended again and again, and up has left something:\n%s\nbefore:\n%s", after, before)
	}
	reached("container that ends not waited for")

	image := l.brokenImage()
	config := workerOf(t, image)
	var group sync.WaitGroup
	for _, retain := range []bool{false, true} {
		name := fmt.Sprintf("broken-%t", retain)
		group.Go(func() {
			status, _, stderr := l.run("up", "--config", config, "--name", name, "--privileged", fmt.Sprintf("--retain=%t", retain))
			for _, want := range []string{"node " + name + "-worker-1: ", "kubeadm join", "kubelet.service does not last", "broken on purpose", "fs.inotify.max_user_instances"} {
				if status != 1 || !strings.Contains(stderr, want) {
					t.Errorf("the kubelet of a worker does not work: exit status %d, want 1 and %q in\n%s", status, want, stderr)
				}
			}
			if kept := strings.Contains(stderr, "nodeimg down --name "+name+" removes it"); kept != retain {
				t.Errorf("retain %t, and nodeimg says\n%s", retain, stderr)
			}
		})
	}
	group.Wait()
	if names := l.docker("ps", "--all", "--format", "{{.Names}}"); strings.Contains(names, "broken-false") || !strings.Contains(names, "broken-true-worker-1") {
		t.Errorf("containers after workers could not join, of which one cluster is to be kept:\n%s", names)
	}
	l.docker("exec", "broken-true-worker-1", "journalctl", "-u", "kubelet")
	l.must("down", "--name", "broken-true")

	// A cluster that there is stays as it was.
	const grown = "broken-grown"
	l.must("up", clusterImage, "--name", grown, "--privileged")
	with := l.has()
	l.refused(1, "kubelet.service does not last", "resize", "--name", grown, "--workers", "1", "--image", image)
	if after := l.has(); after != with {
		t.Errorf("a resize that failed left something:\n%s\nbefore:\n%s", after, with)
	}
	if known := l.kubectl(grown, "get", "nodes", "-o", "name"); known != "node/"+grown+"-control-plane-1\n" {
		t.Errorf("after a resize that failed, Kubernetes knows the nodes\n%s", known)
	}
	l.must("down", "--name", grown)
	reached("joins failed")
	if after := l.has(); after != before {
		t.Errorf("something is left:\n%s\nbefore:\n%s", after, before)
	}
}

// workerOf writes the description of a cluster with one worker of another image.
func workerOf(t *testing.T, image string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "cluster.yaml")
	text := fmt.Sprintf("apiVersion: nodeimg.dev/v1alpha1\nkind: Cluster\nspec:\n  image: %s\n  workers: [{image: %q}]\n", clusterImage, image)
	if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	return file
}

// endingImage makes a node image whose containers end as soon as they are started.
func (l launcher) endingImage() string {
	l.t.Helper()
	const name, image = "nodeimg-clusters-ending", "nodeimg-clusters/ending:entrypoint"
	l.docker("create", "--network", "none", "--name", name, clusterImage)
	l.docker("commit", "--change", `ENTRYPOINT ["sh", "-c", "echo ends on purpose >&2; exit 1"]`, name, image)
	l.docker("rm", "--volumes", name)
	return image
}

// brokenImage makes a node image whose kubelet does not work.
func (l launcher) brokenImage() string {
	l.t.Helper()
	const name, image = "nodeimg-clusters-broken", "nodeimg-clusters/broken:kubelet"
	version := strings.TrimSpace(l.docker("image", "inspect", "--format", `{{index .Config.Labels "dev.nodeimg.kubernetes"}}`, clusterImage))
	kubelet := filepath.Join(l.t.TempDir(), "kubelet")
	script := "#!/bin/sh\n[ \"$1\" != --version ] || { echo 'Kubernetes " + version + "'; exit; }\necho 'inotify_init: too many open files, broken on purpose' >&2\nexit 1\n"
	if err := os.WriteFile(kubelet, []byte(script), 0o755); err != nil {
		l.t.Fatal(err)
	}
	l.docker("create", "--network", "none", "--name", name, clusterImage)
	l.docker("cp", kubelet, name+":"+strings.TrimSpace(l.docker("run", "--rm", "--network", "none", "--entrypoint", "which", clusterImage, "kubelet")))
	l.docker("commit", name, image)
	l.docker("rm", "--volumes", name)
	return image
}
