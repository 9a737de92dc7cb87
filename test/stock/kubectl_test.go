package stock

import (
	"io"
	"strings"
	"testing"

	"github.com/nodeimg/nodeimg/test/internal/application"
	"github.com/nodeimg/nodeimg/test/internal/command"
)

// TestKubectl uses kubectl from outside, of the same minor version as the cluster, with the kubeconfig that nodeimg up writes.
func TestKubectl(t *testing.T) {
	h := newHost(t)
	reached := command.Stopwatch(h)
	t.Cleanup(func() { host{TB: unending{t}, kubeconfig: h.kubeconfig}.must("nodeimg", "down", "--name", "outside") })
	h.must("nodeimg", "up", nodeImage, "--name", "outside", "--workers", "1", "--privileged", "--progress", "plain")
	reached("nodeimg up")
	h.allReady("outside-control-plane-1", "outside-worker-1")
	if current := strings.TrimSpace(h.kubectl("config", "current-context")); current != "nodeimg-outside" {
		t.Errorf("the current context is %q", current)
	}
	h.runs("app", appImage, "outside-worker-1")
	if out := h.kubectl("exec", "app", "--", "/app", "executed", "in", "the", "pod"); out != "executed in the pod\n" {
		t.Errorf("exec: %q", out)
	}
	if out := h.kubectl("logs", "app"); out != "application starts\n" {
		t.Errorf("logs: %q", out)
	}
	reached("pods, exec and logs")
	forwarded(h)
	reached("port-forward")
}

// forwarded asks the application through kubectl port-forward.
func forwarded(h host) {
	h.Helper()
	cmd := h.command("kubectl", "port-forward", "pod/app", ":8080")
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		h.Fatal(err)
	}
	if err := shared.inside.do(cmd.Start); err != nil {
		h.Fatal(err)
	}
	defer func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	}()
	// Forwarding from 127.0.0.1:43210 -> 8080
	line := make([]byte, 200)
	n, err := stdout.Read(line)
	if err != nil {
		h.Fatalf("kubectl port-forward said nothing: %v", err)
	}
	go func() { _, _ = io.Copy(io.Discard, stdout) }()
	fields := strings.Fields(string(line[:n]))
	if len(fields) < 3 {
		h.Fatalf("kubectl port-forward said %q", line[:n])
	}
	address, port, _ := strings.Cut(fields[2], ":")
	body := h.must("bash", "-c", `exec 3<>"/dev/tcp/$0/$1"; printf 'GET / HTTP/1.0\r\n\r\n' >&3; cat <&3`, address, port)
	if !strings.Contains(body, application.Greeting) {
		h.Errorf("the application answered %q", body)
	}
}
