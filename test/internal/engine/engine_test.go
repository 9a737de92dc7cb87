package engine

import (
	"archive/tar"
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/moby/sys/mountinfo"
	"github.com/vishvananda/netlink"

	"github.com/nodeimg/nodeimg/test/internal/node"
	"github.com/nodeimg/nodeimg/test/internal/tools"
)

// childVariable makes this test's program start an Engine, say where, and wait to be killed.
const childVariable = "NODEIMG_TEST_ENGINE_CHILD"

// vanishLimit is how long traces of an Engine whose owner was killed may last.
const vanishLimit = 2 * time.Minute

// namespaceVariable says that this process is in a network namespace of its own already.
const namespaceVariable = "NODEIMG_TEST_ENGINE_NAMESPACE"

// TestMain runs the tests in a network namespace of their own: that is the host's for them, so they cannot disturb the real one's
// rules, nor can another Engine there disturb them.
func TestMain(m *testing.M) {
	if os.Getenv(namespaceVariable) == "" {
		os.Exit(runInNamespace())
	}
	if network := os.Getenv(childVariable); network != "" {
		e, err := Start(context.Background(), Options{Network: Network(network)})
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		fmt.Println(e.Host())
		time.Sleep(time.Hour)
	}
	os.Exit(m.Run())
}

// runInNamespace runs this program again in a network namespace and returns its exit status.
func runInNamespace() int {
	cmd := exec.Command(os.Args[0], os.Args[1:]...)
	cmd.Env = append(os.Environ(), namespaceVariable+"=1")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET, Pdeathsig: syscall.SIGKILL}
	runtime.LockOSThread()
	err := cmd.Run()
	runtime.UnlockOSThread()
	if exit := new(exec.ExitError); errors.As(err, &exit) {
		return exit.ExitCode()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "running the tests in a network namespace of their own, which needs root:", err)
		return 1
	}
	return 0
}

// TestEngineLeavesNothing runs a container on a network, ends the Engine in every way and compares the machine before and after.
func TestEngineLeavesNothing(t *testing.T) {
	program, err := tools.Command(t.Context(), "test/internal/engine/testdata/pause")
	if err != nil {
		t.Fatal(err)
	}
	for _, network := range []Network{OwnNetwork, HostNetwork} {
		t.Run(string(network)+"/stopped", func(t *testing.T) {
			before := observeNetwork(t)
			e, err := Start(t.Context(), Options{Network: network})
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = e.Stop() })
			runContainer(t, e.Host(), program)
			if traces := observe(t, e.Host()); len(traces) < 5 {
				t.Errorf("a running Engine shows only the traces %q: the comparison would prove nothing", traces)
			}
			if err := e.Stop(); err != nil {
				t.Error(err)
			}
			compare(t, e.Host(), before, 0)
		})
		t.Run(string(network)+"/killed", func(t *testing.T) {
			before := observeNetwork(t)
			owner := exec.Command(os.Args[0])
			owner.Env = append(os.Environ(), childVariable+"="+string(network))
			owner.Stderr = t.Output()
			stdout, err := owner.StdoutPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := owner.Start(); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = owner.Process.Kill() })
			line, err := bufio.NewReader(stdout).ReadString('\n')
			if err != nil {
				t.Fatal("the owner did not start an Engine:", err)
			}
			host := strings.TrimSpace(line)
			runContainer(t, host, program)
			if err := owner.Process.Kill(); err != nil {
				t.Fatal(err)
			}
			_ = owner.Wait()
			compare(t, host, before, vanishLimit)
		})
	}
}

// TestNeighbours ends an Engine that began before another one in the same network, which has to go on.
func TestNeighbours(t *testing.T) {
	program, err := tools.Command(t.Context(), "test/internal/engine/testdata/pause")
	if err != nil {
		t.Fatal(err)
	}
	before := observeNetwork(t)
	var engines []*Engine
	for range 2 {
		e, err := Start(t.Context(), Options{Network: HostNetwork})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = e.Stop() })
		engines = append(engines, e)
	}
	if err := engines[0].Stop(); err != nil {
		t.Error(err)
	}
	runContainer(t, engines[1].Host(), program)
	if err := engines[1].Stop(); err != nil {
		t.Error(err)
	}
	compare(t, engines[1].Host(), before, 0)
}

// TestSweep kills an Engine's supervisor itself; the next Engine removes what that left.
func TestSweep(t *testing.T) {
	program, err := tools.Command(t.Context(), "test/internal/engine/testdata/pause")
	if err != nil {
		t.Fatal(err)
	}
	first, err := Start(t.Context(), Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = first.Stop() })
	runContainer(t, first.Host(), program)
	if err := first.command.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	if err := first.Stop(); err == nil {
		t.Error("stopping an Engine whose supervisor was killed: got no error")
	}
	second, err := Start(t.Context(), Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = second.Stop() })
	compare(t, first.Host(), observeNetwork(t), vanishLimit)
	if err := second.Stop(); err != nil {
		t.Error(err)
	}
}

// TestDaemonFlagsReachDockerd also shows what a dockerd that cannot start looks like.
func TestDaemonFlagsReachDockerd(t *testing.T) {
	_, err := Start(t.Context(), Options{Flags: []string{"--log-level=deafening"}})
	if err == nil || !strings.Contains(err.Error(), "deafening") {
		t.Errorf("got error %v, want dockerd's own about the flag", err)
	}
}

// runContainer starts a container with a volume on an internal network and on one with a way out.
func runContainer(t *testing.T, host, program string) {
	t.Helper()
	ctx := t.Context()
	docker, err := node.Connect(ctx, host)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = docker.Close() })
	if err := docker.Import(ctx, "pause:test", rootfs(t, program), `ENTRYPOINT ["/pause"]`); err != nil {
		t.Fatal(err)
	}
	for _, internal := range []bool{true, false} {
		name := fmt.Sprintf("internal-%t", internal)
		if _, err := docker.Network(ctx, name, internal); err != nil {
			t.Fatal(err)
		}
		n, err := docker.Start(ctx, node.Options{Image: "pause:test", Name: "node-" + name, Network: name})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := n.Address(ctx, name); err != nil {
			t.Error(err)
		}
	}
}

// rootfs is a tar with the one program.
func rootfs(t *testing.T, program string) io.Reader {
	t.Helper()
	content, err := os.ReadFile(program)
	if err != nil {
		t.Fatal(err)
	}
	var archive bytes.Buffer
	w := tar.NewWriter(&archive)
	if err := w.WriteHeader(&tar.Header{Name: "pause", Mode: 0o755, Size: int64(len(content))}); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(content); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return &archive
}

// compare makes sure that nothing of the Engine at host is left and the network is as before, at the latest after limit.
func compare(t *testing.T, host string, before []string, limit time.Duration) {
	t.Helper()
	deadline := time.Now().Add(limit)
	for {
		left := observe(t, host)
		diff := cmp.Diff(before, observeNetwork(t))
		if len(left) == 0 && diff == "" {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("the Engine left %q and changed the network (-before +after):\n%s", left, diff)
		}
		time.Sleep(100 * time.Millisecond)
	}
}

// observe lists the mounts, cgroups, processes and files of the Engine at host. Other Engines may run at the same time.
func observe(t *testing.T, host string) []string {
	t.Helper()
	dir := filepath.Dir(strings.TrimPrefix(host, "unix://"))
	seen := glob(t, dir+"*")
	mounts, err := mountinfo.GetMounts(mountinfo.PrefixFilter(dir))
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range mounts {
		seen = append(seen, "mount "+m.Mountpoint)
	}
	seen = append(seen, glob(t, "/sys/fs/cgroup/"+cgroupName(dir))...)
	seen = append(seen, glob(t, "/sys/fs/cgroup/*/"+cgroupName(dir))...)
	for _, process := range glob(t, "/proc/[0-9]*") {
		// Daemons and shims have the state folder among their arguments, containers have the Engine's cgroup. Both files may
		// vanish with the process at any moment.
		arguments, _ := os.ReadFile(filepath.Join(process, "cmdline"))
		cgroups, _ := os.ReadFile(filepath.Join(process, "cgroup"))
		if bytes.Contains(arguments, []byte(dir)) || bytes.Contains(cgroups, []byte(cgroupName(dir))) {
			seen = append(seen, process+" "+string(bytes.ReplaceAll(arguments, []byte{0}, []byte{' '})))
		}
	}
	return seen
}

// observeNetwork lists links, packet filter rules and forwarding settings of the network namespace.
func observeNetwork(t *testing.T) []string {
	t.Helper()
	links, err := netlink.LinkList()
	if err != nil {
		t.Fatal(err)
	}
	var seen []string
	for _, link := range links {
		seen = append(seen, "link "+link.Attrs().Name)
	}
	for _, program := range rulePrograms {
		rules, err := exec.CommandContext(t.Context(), program+"-save").Output()
		if err != nil {
			t.Fatal(err)
		}
		for _, line := range tableLines(string(rules)) {
			seen = append(seen, program+" "+line.key())
		}
	}
	for _, setting := range settings {
		value, err := os.ReadFile(setting)
		if err == nil {
			seen = append(seen, setting+" "+strings.TrimSpace(string(value)))
		}
	}
	return seen
}

func glob(t *testing.T, pattern string) []string {
	t.Helper()
	found, err := filepath.Glob(pattern)
	if err != nil {
		t.Fatal(err)
	}
	return found
}
