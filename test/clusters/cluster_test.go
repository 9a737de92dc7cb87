package clusters

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/nodeimg/nodeimg/test/internal/command"
)

// launcher runs nodeimg against an Engine.
type launcher struct {
	t          *testing.T
	host       string
	kubeconfig string
	// dial connects to published ports; nil means that they are in the network of this process.
	dial func(ctx context.Context, network, address string) (net.Conn, error)
}

// run runs nodeimg and returns its exit status and outputs.
func (l launcher) run(args ...string) (status int, stdout, stderr string) {
	l.t.Helper()
	cmd := l.command(args...)
	var out, said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &said
	err := cmd.Run()
	exit := new(exec.ExitError)
	if err != nil && !errors.As(err, &exit) {
		l.t.Fatalf("nodeimg %q: %v", args, err)
	}
	return cmd.ProcessState.ExitCode(), out.String(), said.String()
}

func (l launcher) command(args ...string) *exec.Cmd {
	cmd := exec.CommandContext(l.t.Context(), filepath.Join(programs, "nodeimg"), args...)
	cmd.Env = append(os.Environ(), "DOCKER_HOST="+l.host, "KUBECONFIG="+l.kubeconfig)
	return cmd
}

// must is run for what has to succeed.
func (l launcher) must(args ...string) (stdout string) {
	l.t.Helper()
	status, stdout, stderr := l.run(args...)
	if status != 0 {
		l.t.Fatalf("nodeimg %q: exit status %d\n%s", args, status, stderr)
	}
	return stdout
}

// refused is run for what has to fail with the status and words.
func (l launcher) refused(status int, words string, args ...string) {
	l.t.Helper()
	got, _, stderr := l.run(args...)
	if got != status || !strings.Contains(stderr, words) {
		l.t.Errorf("nodeimg %q: exit status %d, want %d and %q in\n%s", args, got, status, words, stderr)
	}
}

// docker runs the docker command.
func (l launcher) docker(args ...string) string {
	l.t.Helper()
	cmd := exec.CommandContext(l.t.Context(), "docker", args...)
	cmd.Env = append(os.Environ(), "DOCKER_HOST="+l.host)
	out, err := cmd.CombinedOutput()
	if err != nil {
		l.t.Fatalf("docker %q: %v\n%s", args, err, out)
	}
	return string(out)
}

// has lists everything in the Engine but images.
func (l launcher) has() string {
	l.t.Helper()
	list, err := engineHas(l.t.Context(), l.host)
	if err != nil {
		l.t.Fatal(err)
	}
	return list
}

// engineHas lists everything in an Engine but images.
func engineHas(ctx context.Context, host string) (string, error) {
	var list strings.Builder
	for _, args := range [][]string{
		{"ps", "--all", "--format", "{{.Names}}"}, {"network", "ls", "--format", "{{.Name}}"}, {"volume", "ls", "--quiet"},
	} {
		cmd := exec.CommandContext(ctx, "docker", args...)
		cmd.Env = append(os.Environ(), "DOCKER_HOST="+host)
		out, err := cmd.CombinedOutput()
		if err != nil {
			return "", fmt.Errorf("docker %q: %w\n%s", args, err, out)
		}
		list.Write(out)
	}
	return list.String(), nil
}

// nodes asks the API server from this host which nodes are Ready.
func (l launcher) nodes() (ready []string) {
	l.t.Helper()
	ready, err := l.askNodes(l.t.Context())
	if err != nil {
		l.t.Fatal(err)
	}
	return ready
}

// askNodes is nodes for an API server that perhaps does not answer.
func (l launcher) askNodes(ctx context.Context) (ready []string, err error) {
	text, err := os.ReadFile(l.kubeconfig)
	if err != nil {
		return nil, err
	}
	config, err := clientcmd.RESTConfigFromKubeConfig(text)
	if err != nil {
		return nil, err
	}
	config.Dial = l.dial
	client, err := rest.HTTPClientFor(config)
	if err != nil {
		return nil, err
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, config.Host+"/api/v1/nodes", nil)
	if err != nil {
		return nil, err
	}
	response, err := client.Do(request)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		return nil, err
	}
	var list struct {
		Items []struct {
			Metadata struct{ Name string }
			Status   struct {
				Conditions []struct{ Type, Status string }
			}
		}
	}
	if response.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%s: %s", response.Status, body)
	}
	if err := json.Unmarshal(body, &list); err != nil {
		return nil, fmt.Errorf("%w: %s", err, body)
	}
	for _, n := range list.Items {
		for _, c := range n.Status.Conditions {
			if c.Type == "Ready" && c.Status == "True" {
				ready = append(ready, n.Metadata.Name)
			}
		}
	}
	return ready, nil
}

// mergedAgain takes the context of the cluster one out of the kubeconfig and adds it again.
func mergedAgain(l launcher) {
	l.t.Helper()
	before := l.nodes()
	l.must("kubeconfig", "--name", "one", "--remove")
	if text, err := os.ReadFile(l.kubeconfig); err != nil || bytes.Contains(text, []byte("nodeimg-one")) {
		l.t.Errorf("kubeconfig --remove left the context: %v\n%s", err, text)
	}
	if out := l.must("kubeconfig", "--name", "one", "--merge"); out != "nodeimg-one\n" {
		l.t.Errorf("kubeconfig --merge printed %q", out)
	}
	if after := l.nodes(); !slices.Equal(after, before) {
		l.t.Errorf("Ready nodes after kubeconfig --merge: %v, want %v", after, before)
	}
}

// TestUp makes clusters with nodeimg itself and removes them, also after it was killed.
func TestUp(t *testing.T) {
	l, image := clusters(t), clusterImage
	before := l.has()

	l.refused(2, "--privileged", "up", image, "--name", "one")
	l.refused(2, "lower-case letters", "up", image, "--name", "One", "--privileged")
	for _, missing := range []string{"nodeimg-clusters/missing", "Recipe.yaml", "k8s:v1:x"} {
		l.refused(2, "no such file or folder", "up", missing, "--privileged")
	}
	l.refused(2, "there is no cluster one", "down", "--name", "one")
	if after := l.has(); after != before {
		t.Errorf("refused commands left something:\n%s", after)
	}

	reached := command.Stopwatch(t)
	if out := l.must("up", image, "--name", "one", "--workers", "1", "--privileged", "--progress", "plain"); out != "nodeimg-one\n" {
		t.Errorf("up printed %q", out)
	}
	reached("two nodes Ready")
	if ready := l.nodes(); fmt.Sprint(ready) != "[one-control-plane-1 one-worker-1]" {
		t.Errorf("Ready nodes: %v", ready)
	}
	mergedAgain(l)
	l.refused(2, "is there already", "up", image, "--name", "one", "--privileged")
	var listed []struct {
		Name     string
		Complete bool
		Nodes    []struct{ State string }
	}
	if err := json.Unmarshal([]byte(l.must("list", "-o", "json")), &listed); err != nil {
		t.Fatal(err)
	}
	if len(listed) != 1 || listed[0].Name != "one" || !listed[0].Complete || len(listed[0].Nodes) != 2 || listed[0].Nodes[1].State != "running" {
		t.Errorf("list: %+v", listed)
	}

	resized(l, "one")
	stopped(l, "one")

	loads(l, "one", false)
	reached("images loaded")
	exportsLogs(l)
	reached("logs exported")

	// Another cluster, whose name begins like the first one's, fails at a port that is taken, and leaves nothing.
	withOne := l.has()
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	_, port, _ := net.SplitHostPort(taken.Addr().String())
	l.refused(1, "--api-port", "up", image, "--name", "one-more", "--privileged", "--api-port", port)
	if after := l.has(); after != withOne {
		t.Errorf("a cluster that failed left something:\n%s\nbefore:\n%s", after, withOne)
	}

	killedWhen(l, "killed-control-plane-1", "up", image, "--name", "killed", "--privileged")
	l.must("down", "--name", "killed")
	if after := l.has(); after != withOne {
		t.Errorf("down left something of a cluster whose nodeimg was killed:\n%s\nbefore:\n%s", after, withOne)
	}

	reached("second clusters gone")
	l.must("down", "--name", "one")
	reached("removed")
	if after := l.has(); after != before {
		t.Errorf("down left something:\n%s", after)
	}
	text, err := os.ReadFile(l.kubeconfig)
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Contains(text, []byte("nodeimg-one")) {
		t.Errorf("down left the context in the kubeconfig:\n%s", text)
	}
}
