package stock

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// wait is a generous limit for a condition on a machine that is busy.
const wait = 5 * time.Minute

// host is where a test works: the Engine, a kubeconfig of its own and the programs.
type host struct {
	testing.TB
	kubeconfig string
}

// newHost makes sure that the test leaves nothing in the Engine but images.
func newHost(tb testing.TB) host {
	tb.Helper()
	h := host{TB: tb, kubeconfig: filepath.Join(tb.TempDir(), "kubeconfig")}
	before := h.has()
	tb.Cleanup(func() {
		h.TB = unending{tb}
		if after := h.has(); after != before {
			tb.Errorf("the test left something:\n%s\nbefore:\n%s", after, before)
		}
	})
	return h
}

// unending is a test whose context outlasts it, for cleaning up.
type unending struct{ testing.TB }

func (u unending) Context() context.Context { return context.WithoutCancel(u.TB.Context()) }

// command is a program that works on the Engine. It must be started in the Engine's network namespace.
func (h host) command(program string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(h.Context(), program, args...)
	cmd.Env = append(environment(), "KUBECONFIG="+h.kubeconfig)
	own := filepath.Join(shared.programs, program)
	if _, err := os.Stat(own); err == nil {
		cmd.Path, cmd.Err = own, nil
	}
	return cmd
}

// try runs a program and returns its standard output; the error has what it said.
func (h host) try(program string, args ...string) (string, error) {
	cmd := h.command(program, args...)
	var stdout, said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &said
	if err := shared.inside.do(cmd.Start); err != nil {
		return "", fmt.Errorf("%s: %w", cmd, err)
	}
	if err := cmd.Wait(); err != nil {
		return stdout.String(), fmt.Errorf("%s %s: %w\n%s%s", program, strings.Join(args, " "), err, stdout.String(), said.String())
	}
	return stdout.String(), nil
}

// must is try for what has to succeed.
func (h host) must(program string, args ...string) string {
	h.Helper()
	out, err := h.try(program, args...)
	if err != nil {
		h.Fatal(err)
	}
	return out
}

func (h host) docker(args ...string) string  { h.Helper(); return h.must("docker", args...) }
func (h host) kubectl(args ...string) string { h.Helper(); return h.must("kubectl", args...) }

// until repeats a command until done accepts its output.
func (h host) until(done func(out string) bool, program string, args ...string) {
	h.Helper()
	deadline := time.Now().Add(wait)
	for {
		out, err := h.try(program, args...)
		if err == nil && done(out) {
			return
		}
		if time.Now().After(deadline) {
			h.Fatalf("%s %s does not give what is expected: %v\n%s", program, strings.Join(args, " "), err, out)
		}
		time.Sleep(100 * time.Millisecond)
	}
}

// succeeds accepts any output.
func succeeds(string) bool { return true }

// has lists everything in the Engine but images.
func (h host) has() string {
	h.Helper()
	return h.docker("ps", "--all", "--format", "{{.Names}}") + h.docker("network", "ls", "--format", "{{.Name}}") + h.docker("volume", "ls", "--quiet")
}

// removeLater removes the nodes when the test ends; when it has failed, it shows what one wants to know of them.
func (h host) removeLater(nodes ...string) {
	h.Helper()
	h.Cleanup(func() {
		h.TB = unending{h.TB}
		if h.Failed() {
			for _, node := range nodes {
				for _, command := range []string{
					"journalctl --no-pager -n 40 -u containerd", "journalctl --no-pager -n 40 -u kubelet", "crictl ps -a",
					"kubectl --kubeconfig /etc/kubernetes/admin.conf get nodes,pods,events -A -o wide",
				} {
					out, err := h.try("docker", "exec", node, "sh", "-c", command)
					h.Logf("%s: %s: %v\n%s", node, command, err, out)
				}
			}
		}
		for _, node := range nodes {
			if _, err := h.try("docker", "rm", "--force", "--volumes", node); err != nil && !strings.Contains(err.Error(), "No such container") {
				h.Error(err)
			}
		}
	})
}

// runFlags are what docker run needs for a node on this host: the runtime where there is Sysbox, else what docs/node-image.md says.
func (h host) runFlags() []string {
	h.Helper()
	if strings.Contains(h.docker("info", "--format", "{{json .Runtimes}}"), "sysbox-runc") {
		return []string{"--runtime=sysbox-runc"}
	}
	return []string{"--privileged", "--cgroupns=private", "--tmpfs", "/run", "--tmpfs", "/tmp", "--volume", "/var"}
}

// allReady waits until the API server knows these nodes, sorted by name, and no other, all of them Ready.
func (h host) allReady(nodes ...string) {
	h.Helper()
	want := strings.Join(nodes, " True\n") + " True\n"
	h.until(func(out string) bool { return out == want }, "kubectl", "get", "nodes", "-o",
		`jsonpath={range .items[*]}{.metadata.name} {.status.conditions[?(@.type=="Ready")].status}{"\n"}{end}`)
}

// systemReady waits until all pods of kube-system are Ready.
func (h host) systemReady() {
	h.Helper()
	h.until(func(out string) bool {
		states := strings.Fields(out)
		return len(states) > 0 && strings.Count(out, "True") == len(states)
	}, "kubectl", "get", "pods", "-n", "kube-system", "-o", `jsonpath={.items[*].status.conditions[?(@.type=="Ready")].status}`)
}

// runs makes a pod of an image that must not be pulled and waits until it is Ready on the node.
func (h host) runs(pod, image, node string) {
	h.Helper()
	// The service account is made by a controller soon after the API server answers.
	h.until(succeeds, "kubectl", "get", "serviceaccount", "default")
	overrides, err := json.Marshal(map[string]any{"spec": map[string]any{"nodeName": node}})
	if err != nil {
		h.Fatal(err)
	}
	h.kubectl("run", pod, "--image", image, "--image-pull-policy", "Never", "--overrides", string(overrides))
	h.kubectl("wait", "--for=condition=Ready", "pod/"+pod, "--timeout="+wait.String())
}

// neverPulled holds that the nodes' containerd was never asked to pull.
func (h host) neverPulled(nodes ...string) {
	h.Helper()
	for _, node := range nodes {
		log := h.docker("exec", node, "journalctl", "--no-pager", "-u", "containerd", "-o", "cat")
		if !strings.Contains(log, "containerd successfully booted") {
			h.Errorf("containerd's log in %s is not what it should be:\n%s", node, log)
		}
		for line := range strings.Lines(log) {
			if strings.Contains(line, "PullImage") {
				h.Errorf("containerd in %s pulled: %s", node, line)
			}
		}
	}
}
