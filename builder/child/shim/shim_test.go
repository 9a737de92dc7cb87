package shim_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/nodeimg/nodeimg/builder/child/shim"
	"github.com/nodeimg/nodeimg/builder/internal/buildtest"
)

func TestMain(m *testing.M) {
	shim.Main()
	os.Exit(m.Run())
}

const mark = "TEST_MARK"

// runtime is an installed shim whose Sysbox is the recorder.
type runtime struct {
	t          *testing.T
	dir, place string
}

func install(t *testing.T) *runtime {
	t.Helper()
	runc, err := exec.LookPath("runc")
	if err != nil {
		t.Fatal(err)
	}
	// runc's state lies in here, and the paths of its sockets are short.
	place, err := os.MkdirTemp("/run", "shim-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(place) })
	sysbox := filepath.Join(place, "sysbox-runc")
	if err := os.Symlink(buildtest.Recorder(t), sysbox); err != nil {
		t.Fatal(err)
	}
	r := &runtime{t, filepath.Join(place, "runtime"), place}
	if err := shim.Install(r.dir, shim.Config{Runc: runc, Sysbox: sysbox, Mark: mark, Logs: []string{filepath.Join(place, "mgr.log")}}); err != nil {
		t.Fatal(err)
	}
	return r
}

// bundle makes a bundle whose process runs the test tool with args; runc's own default is the rest.
func (r *runtime) bundle(marked bool, args ...string) string {
	r.t.Helper()
	dir := r.t.TempDir()
	if out, err := exec.Command("runc", "spec", "--bundle", dir).CombinedOutput(); err != nil {
		r.t.Fatalf("runc spec: %v: %s", err, out)
	}
	var spec map[string]any
	b, err := os.ReadFile(filepath.Join(dir, "config.json"))
	if err != nil {
		r.t.Fatal(err)
	}
	if err := json.Unmarshal(b, &spec); err != nil {
		r.t.Fatal(err)
	}
	process := spec["process"].(map[string]any)
	process["args"], process["terminal"] = append([]string{"/tool"}, args...), false
	if marked {
		process["env"] = []string{mark + "=1"}
	}
	if b, err = json.Marshal(spec); err != nil {
		r.t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "config.json"), b, 0o600); err != nil {
		r.t.Fatal(err)
	}
	tool, err := os.ReadFile(buildtest.Tool(r.t))
	if err != nil {
		r.t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(dir, "rootfs"), 0o755); err != nil {
		r.t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "rootfs", "tool"), tool, 0o755); err != nil {
		r.t.Fatal(err)
	}
	return dir
}

// command prepares a call of the runtime, as BuildKit makes it.
func (r *runtime) command(args ...string) *exec.Cmd {
	return exec.Command(shim.Path(r.dir), append([]string{"--log", filepath.Join(r.place, "log.json"), "--log-format", "json"}, args...)...)
}

// call runs the runtime to its end.
func (r *runtime) call(args ...string) (status int, output string) {
	r.t.Helper()
	var out bytes.Buffer
	cmd := r.command(args...)
	cmd.Stdout, cmd.Stderr = &out, &out
	var exit *exec.ExitError
	if err := cmd.Run(); err != nil && !errors.As(err, &exit) {
		r.t.Fatal(err)
	}
	return cmd.ProcessState.ExitCode(), out.String()
}

// calls are the subcommands, with their last arguments, that reached Sysbox.
func (r *runtime) calls() []string {
	text, _ := os.ReadFile(filepath.Join(r.place, "calls"))
	var found []string
	for line := range strings.Lines(string(text)) {
		var call []string
		if err := json.Unmarshal([]byte(line), &call); err != nil {
			r.t.Fatal(err)
		}
		i := slices.IndexFunc(call, func(arg string) bool { return !strings.HasPrefix(arg, "-") })
		found = append(found, strings.Join(slices.DeleteFunc(call[i:], func(arg string) bool { return strings.HasPrefix(arg, "--bundle=") }), " "))
	}
	return found
}

func (r *runtime) wantCalls(want ...string) {
	r.t.Helper()
	if got := r.calls(); !slices.Equal(got, want) {
		r.t.Errorf("Sysbox was called with %q, want %q", got, want)
	}
}

func (r *runtime) wantStatus(want int, args ...string) string {
	r.t.Helper()
	status, output := r.call(args...)
	if status != want {
		r.t.Errorf("%q exited with %d, want %d: %s", args, status, want, output)
	}
	return output
}

func TestUnmarked(t *testing.T) {
	r := install(t)
	bundle := r.bundle(false, "fail", "2", "7")
	if out := r.wantStatus(7, "run", "--bundle", bundle, "--keep", "one"); out != "line 1\nline 2\n" {
		t.Errorf("the step prints %q", out)
	}
	// It was kept, and is deleted when nothing of it is left on the disk.
	if out := r.wantStatus(0, "state", "one"); !strings.Contains(out, `"status": "stopped"`) {
		t.Errorf("its state is %s", out)
	}
	if err := os.RemoveAll(bundle); err != nil {
		t.Fatal(err)
	}
	r.wantStatus(0, "delete", "one")
	r.wantStatus(1, "state", "one")
	r.wantStatus(0, "delete", "one")
	r.wantCalls()
}

func TestMarked(t *testing.T) {
	r := install(t)
	bundle := r.bundle(true, "fail", "2", "7")
	if out := r.wantStatus(7, "run", "--bundle", bundle, "--keep", "one"); out != "line 1\nline 2\n" {
		t.Errorf("the step prints %q", out)
	}
	if err := os.RemoveAll(bundle); err != nil {
		t.Fatal(err)
	}
	r.wantStatus(0, "delete", "one")
	r.wantStatus(0, "delete", "one")
	// The second deletion is that of a container that nobody knows.
	r.wantCalls("run one", "delete one", "state one")
	if left, err := os.ReadDir(filepath.Join(r.dir, "containers")); err != nil || len(left) > 0 {
		t.Errorf("remembered: %v, %v", left, err)
	}
}

func TestMarkedKilled(t *testing.T) {
	r := install(t)
	cmd := r.command("run", "--bundle", r.bundle(true, "sleep"), "--keep", "one")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	buildtest.Eventually(t, "the container runs", func() bool {
		_, out := r.call("state", "one")
		return strings.Contains(out, `"status": "running"`)
	})
	r.wantStatus(0, "kill", "one", "9")
	if err := cmd.Wait(); err == nil || cmd.ProcessState.ExitCode() != 128+9 {
		t.Errorf("a killed container gave %v", err)
	}
	if calls := r.calls(); !slices.Contains(calls, "kill one 9") || !slices.Contains(calls, "state one") {
		t.Errorf("Sysbox was called with %q", calls)
	}
}

// A shim that dies takes the runtime along, and what is left is found.
func TestClean(t *testing.T) {
	r := install(t)
	cmd := r.command("run", "--bundle", r.bundle(true, "sleep"), "--keep", "one")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	buildtest.Eventually(t, "the container runs", func() bool {
		_, out := r.call("state", "one")
		return strings.Contains(out, `"status": "running"`)
	})
	if err := cmd.Process.Signal(syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
	shim.Clean(context.Background(), r.dir)
	if calls := r.calls(); calls[len(calls)-1] != "delete --force one" && calls[len(calls)-1] != "delete one" {
		t.Errorf("Sysbox was called with %q", calls)
	}
	r.wantStatus(1, "state", "one")
	if left := buildtest.Leftovers(t, r.place); len(left) > 0 {
		t.Errorf("left:\n%s", strings.Join(left, "\n"))
	}
}

func TestRuntimeFails(t *testing.T) {
	r := install(t)
	if err := os.WriteFile(filepath.Join(r.place, "mgr.log"), []byte(strings.Repeat("early\n", 1000)+"late\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	bundle := r.bundle(true, "fail", "0", "0")
	if err := os.Remove(filepath.Join(bundle, "rootfs", "tool")); err != nil {
		t.Fatal(err)
	}
	out := r.wantStatus(1, "run", "--bundle", bundle, "--keep", "one")
	if !strings.Contains(out, "no such file or directory") || !strings.Contains(out, "sysbox-runc failed\nthe end of "+r.place+"/mgr.log:\nearly\n") || !strings.HasSuffix(out, "\nlate\n") {
		t.Errorf("the output is %s", out)
	}
	// BuildKit reads its own log.
	log, err := os.ReadFile(filepath.Join(r.place, "log.json"))
	if err != nil || !strings.Contains(string(log), `"level":"error"`) {
		t.Errorf("BuildKit's log has %q, %v", log, err)
	}
}

func TestBadCalls(t *testing.T) {
	r := install(t)
	for _, test := range []struct {
		args []string
		want string
	}{
		{[]string{"delete", "../x"}, `"../x" cannot be the id of a container`},
		{[]string{"run", "--bundle", "/nowhere", "one"}, "/nowhere/config.json"},
		{[]string{"run", "--unheard-of", "one"}, `understanding the flags of "runc run"`},
	} {
		if out := r.wantStatus(1, test.args...); !strings.Contains(out, test.want) {
			t.Errorf("%q gives %q", test.args, out)
		}
	}
	if out := r.wantStatus(0, "--version"); !strings.Contains(out, "runc version") {
		t.Errorf("--version prints %q", out)
	}
}
