package preload

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/moby/sys/mountinfo"
)

// programs is a folder with the containerd and ctr of testdata/containerd/go.mod, built once for all tests.
var programs = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "nodeimg-containerd-")
	if err != nil {
		return "", err
	}
	programsDir = dir
	build := exec.Command("go", "build", "-trimpath", "-tags", "no_btrfs no_zfs", "-o", dir+"/", "tool", "./criimages")
	build.Dir = filepath.Join("testdata", "containerd")
	build.Env = append(environment, "CGO_ENABLED=0", "GOFLAGS=-mod=readonly")
	if out, err := build.CombinedOutput(); err != nil {
		return "", fmt.Errorf("building containerd: %w: %s", err, out)
	}
	return dir, nil
})

var programsDir string

// environment is the one that tests began with; the go command finds its caches by HOME, which tests change.
var environment = os.Environ()

func TestMain(m *testing.M) {
	code := m.Run()
	if programsDir != "" {
		_ = os.RemoveAll(programsDir)
	}
	os.Exit(code)
}

func mustPrograms(t *testing.T) string {
	t.Helper()
	dir, err := programs()
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

// node is a containerd that runs on a root folder, as in a node.
type node struct {
	dir, root, socket string
	containerd        *exec.Cmd
	log               *os.File
}

// startNode starts the real containerd on root and waits until it answers.
func startNode(t *testing.T, root string) *node {
	t.Helper()
	// A socket's path may have only 108 bytes, so t.TempDir will not do.
	dir, err := os.MkdirTemp("", "nodeimg-node-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	n := &node{dir: dir, root: root, socket: filepath.Join(dir, "containerd.sock")}
	config := filepath.Join(dir, "config.toml")
	// The CRI plugin is what the kubelet asks; nothing here runs a container.
	writeFile(t, config, fmt.Appendf(nil, `version = 3
disabled_plugins = ["io.containerd.nri.v1.nri"]
[plugins."io.containerd.cri.v1.runtime".cni]
bin_dirs = [%q]
conf_dir = %q
`, dir, dir))
	if n.log, err = os.Create(filepath.Join(dir, "log")); err != nil {
		t.Fatal(err)
	}
	n.containerd = exec.Command(filepath.Join(mustPrograms(t), "containerd"), "--config", config, "--root", root, "--state", filepath.Join(dir, "state"), "--address", n.socket)
	n.containerd.Stdout, n.containerd.Stderr = n.log, n.log
	n.containerd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := n.containerd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { n.stop(t) })
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(50 * time.Millisecond) {
		err := exec.CommandContext(t.Context(), filepath.Join(mustPrograms(t), "ctr"), "--address", n.socket, "version").Run()
		if err == nil {
			return n
		}
		if time.Now().After(deadline) || n.containerd.ProcessState != nil {
			t.Fatalf("containerd does not answer: %v\n%s", err, n.text(t))
		}
	}
}

func (n *node) text(t *testing.T) string {
	t.Helper()
	b, err := os.ReadFile(n.log.Name())
	if err != nil {
		t.Error(err)
	}
	return string(b)
}

func (n *node) stop(t *testing.T) {
	t.Helper()
	if n.containerd.ProcessState != nil {
		return
	}
	if err := n.containerd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Error(err)
	}
	if err := n.containerd.Wait(); err != nil {
		t.Errorf("containerd ended with %v\n%s", err, n.text(t))
	}
	_ = n.log.Close()
	// Mounts that containerd has made for others outlive it.
	left, err := mountinfo.GetMounts(mountinfo.PrefixFilter(n.dir))
	if err != nil {
		t.Error(err)
	}
	for _, m := range slices.Backward(left) {
		if err := syscall.Unmount(m.Mountpoint, syscall.MNT_DETACH); err != nil {
			t.Errorf("unmounting %s: %v", m.Mountpoint, err)
		}
	}
}

// cri returns a line per image that the CRI plugin knows: id, pinned, tags, digests.
func (n *node) cri(t *testing.T) []string {
	t.Helper()
	// The plugin answers a little later than the rest of containerd.
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(50 * time.Millisecond) {
		out, err := exec.CommandContext(t.Context(), filepath.Join(mustPrograms(t), "criimages"), n.socket).Output()
		if err == nil {
			return slices.Collect(strings.Lines(string(out)))
		}
		if time.Now().After(deadline) {
			t.Fatalf("asking the CRI plugin: %v\n%s", err, n.text(t))
		}
	}
}

// ctr runs ctr in the namespace of Kubernetes and returns what it prints.
func (n *node) ctr(t *testing.T, args ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	command := exec.CommandContext(ctx, filepath.Join(mustPrograms(t), "ctr"), append([]string{"--address", n.socket, "--namespace", "k8s.io"}, args...)...)
	var out, failure bytes.Buffer
	command.Stdout, command.Stderr = &out, &failure
	if err := command.Run(); err != nil {
		t.Fatalf("ctr %s: %v: %s", strings.Join(args, " "), err, failure.String())
	}
	return out.String()
}
