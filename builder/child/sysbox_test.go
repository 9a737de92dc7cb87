package child

import (
	"archive/tar"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/opencontainers/go-digest"

	"github.com/nodeimg/nodeimg/builder"
	"github.com/nodeimg/nodeimg/builder/internal/buildtest"
	"github.com/nodeimg/nodeimg/dockerfiles"
	"github.com/nodeimg/nodeimg/internal/cache"
)

// installSysbox makes a place with the program as sysbox-runc, and lets this test's nodeimg look for Sysbox's daemons there.
func installSysbox(t *testing.T, program string) (place string) {
	t.Helper()
	place, err := os.MkdirTemp("/run", "sysbox-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(place); err != nil {
			t.Error(err)
		}
	})
	// Root of a container is another user, who has to get at its root file system.
	if err := os.Chmod(place, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, dir := range []string{"run", "log", "data"} {
		if err := os.Mkdir(filepath.Join(place, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{RuntimeSysbox, "sysbox-mgr"} {
		if err := os.Symlink(program, filepath.Join(place, name)); err != nil {
			t.Fatal(err)
		}
	}
	lookForSysbox(t, place)
	return place
}

// lookForSysbox lets nodeimg look for Sysbox's daemons in place.
func lookForSysbox(t *testing.T, place string) {
	before := sysboxDaemons
	t.Cleanup(func() { sysboxDaemons = before })
	sysboxDaemons = daemonsIn(place)
}

// daemonsIn are Sysbox's daemons in place.
func daemonsIn(place string) []sysboxDaemon {
	return []sysboxDaemon{
		{"sysbox-mgr", filepath.Join(place, "run", "sysmgr.sock"), filepath.Join(place, "log", "sysbox-mgr.log")},
		{"sysbox-fs", filepath.Join(place, "run", "sysfs.sock"), filepath.Join(place, "log", "sysbox-fs.log")},
	}
}

// registered are the containers that the Sysbox in place knows.
func registered(t *testing.T, place string) []string {
	t.Helper()
	found, err := os.ReadDir(filepath.Join(place, "data"))
	if err != nil {
		t.Fatal(err)
	}
	var ids []string
	for _, e := range found {
		ids = append(ids, e.Name())
	}
	return ids
}

// answering makes both of Sysbox's sockets, behind which is nothing.
func answering(t *testing.T) {
	t.Helper()
	for _, daemon := range sysboxDaemons {
		listener, err := net.Listen("unix", daemon.socket)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = listener.Close() })
	}
}

// startSysbox installs the stand-in for Sysbox and starts its daemon.
func startSysbox(t *testing.T, args ...string) (place string) {
	t.Helper()
	place = installSysbox(t, buildtest.Sysbox(t))
	cmd := exec.Command(filepath.Join(place, "sysbox-mgr"), args...)
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		if err := cmd.Wait(); err != nil && cmd.ProcessState.ExitCode() != 1 {
			t.Errorf("the daemon ended with %v", err)
		}
	})
	buildtest.Eventually(t, "the daemon answers", func() bool {
		_, err := findSysbox(filepath.Join(place, RuntimeSysbox))
		return err == nil
	})
	return place
}

func newSysboxDaemon(t *testing.T, c *cache.Cache, place string) *Daemon {
	t.Helper()
	t.Setenv("PATH", place+":"+os.Getenv("PATH"))
	d := newDaemon(t, c)
	if d.runtimes.sysbox != filepath.Join(place, RuntimeSysbox) {
		t.Fatalf("auto has not chosen Sysbox: %+v", d.runtimes)
	}
	return d
}

// markedRequest is a build of a marked and of other steps.
func markedRequest(t *testing.T, c *cache.Cache, inner, own string) builder.Request {
	r := request(c, buildtest.Base(t, c).String(), t.TempDir(), "")
	r.Dockerfile = fmt.Appendf(nil, `FROM base AS inner
ARG %s=1
RUN --network=none --mount=type=bind,from=base,source=/bin/tool,target=/bound tool %s
FROM base
RUN --network=none tool %s
COPY --link --from=inner /out/ /out/
`, dockerfiles.InnerVariable, inner, own)
	r.Epoch = time.Unix(1_700_000_000, 0)
	return r
}

// entries are the headers of the image in dir, by name, and the contents of its small files.
func entries(t *testing.T, dir string, d digest.Digest) (map[string]*tar.Header, map[string]string) {
	t.Helper()
	r := mutate.Extract(buildtest.Image(t, dir, d))
	defer r.Close()
	headers, contents := map[string]*tar.Header{}, map[string]string{}
	for tr := tar.NewReader(r); ; {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			return headers, contents
		}
		if err != nil {
			t.Fatal(err)
		}
		headers[h.Name] = h
		if h.Size < 1<<20 {
			b, err := io.ReadAll(tr)
			if err != nil {
				t.Fatal(err)
			}
			contents[h.Name] = string(b)
		}
	}
}

func mustSolve(t *testing.T, d *Daemon, r builder.Request) digest.Digest {
	t.Helper()
	result, err := builder.Solve(t.Context(), d, r)
	if err != nil {
		t.Fatal(err)
	}
	return result.Digest
}

// The same steps give the same image under runc, through the shim, and under Sysbox.
func TestSysboxFaithful(t *testing.T) {
	c := buildtest.Cache(t)
	faithful := func() builder.Request { return markedRequest(t, c, "nasty /out", "nasty /own") }
	lookForSysbox(t, t.TempDir())
	plain := newDaemon(t, c)
	r := faithful()
	want := mustSolve(t, plain, r)
	headers, _ := entries(t, r.Output, want)
	if h := headers["out/folder/file"]; h == nil || h.Uid != 1000 || h.Gid != 2000 || headers["out/pipe"] == nil {
		t.Fatalf("runc makes %+v", h)
	}
	if err := plain.Close(); err != nil {
		t.Fatal(err)
	}

	t.Run("recorder", func(t *testing.T) {
		place := installSysbox(t, buildtest.Recorder(t))
		answering(t)
		d := newSysboxDaemon(t, c, place)
		if got := mustSolve(t, d, faithful()); got != want {
			t.Errorf("the image is %s, under runc alone %s", got, want)
		}
		if err := d.Close(); err != nil {
			t.Fatal(err)
		}
		checkCalls(t, place)
	})
	t.Run("stand-in", func(t *testing.T) {
		place := startSysbox(t)
		d := newSysboxDaemon(t, c, place)
		if got := mustSolve(t, d, faithful()); got != want {
			t.Errorf("the image is %s, under runc %s", got, want)
		}
		r := markedRequest(t, c, "copy /proc/self/uid_map /out", "copy /proc/self/uid_map /own")
		r.Dockerfile = []byte(strings.Replace(string(r.Dockerfile), "/out/ /out/", "/out /out", 1))
		_, contents := entries(t, r.Output, mustSolve(t, d, r))
		if got := strings.Fields(contents["out"]); !slices.Equal(got, []string{"0", "100000", "65536"}) {
			t.Errorf("the marked step sees the users %q", got)
		}
		if got := strings.Fields(contents["own"]); !slices.Equal(got, []string{"0", "0", "4294967295"}) {
			t.Errorf("the other step sees the users %q", got)
		}
		// What makes Sysbox hard to preload under, or the stand-in would prove nothing.
		r = markedRequest(t, c, "nasty /var/lib/docker/x", "interfaces /own")
		r.Dockerfile = []byte(strings.Replace(string(r.Dockerfile), "/out/ /out/", "/var/lib/docker/x /out", 1))
		headers, _ := entries(t, r.Output, mustSolve(t, d, r))
		if h := headers["out/folder/file"]; h == nil || h.Uid != 1000 || headers["out/pipe"] != nil {
			t.Errorf("a volume came back with what it loses: %+v, %+v", h, headers["out/pipe"])
		}
		if err := d.Close(); err != nil {
			t.Fatal(err)
		}
		if left := registered(t, place); len(left) > 0 {
			t.Errorf("Sysbox still has %q", left)
		}
	})
}

// checkCalls checks how the recorder in place was called: for one step, and as sysbox-runc has to be.
func checkCalls(t *testing.T, place string) {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(place, "calls"))
	if err != nil {
		t.Fatal(err)
	}
	var names, ids []string
	for line := range strings.Lines(string(text)) {
		var call []string
		if err := json.Unmarshal([]byte(line), &call); err != nil {
			t.Fatal(err)
		}
		i := slices.IndexFunc(call, func(arg string) bool { return !strings.HasPrefix(arg, "-") })
		names, ids = append(names, call[i]), append(ids, call[len(call)-1])
		if slices.Contains(call, "--keep") || !strings.HasPrefix(call[0], "--root=/run/nodeimg-") {
			t.Errorf("called with %q", call)
		}
		if call[i] == "run" && !slices.ContainsFunc(call, func(arg string) bool {
			return strings.HasPrefix(arg, "--bundle=/") && strings.HasSuffix(arg, "/"+call[len(call)-1])
		}) {
			t.Errorf("run without its bundle: %q", call)
		}
	}
	if want := []string{"run", "delete", "state"}; !slices.Equal(names, want) || len(slices.Compact(ids)) != 1 {
		t.Errorf("the calls are %q, want %q for one container:\n%s", names, want, text)
	}
}

func TestSysboxFails(t *testing.T) {
	c := buildtest.Cache(t)
	place := startSysbox(t, "--broken")
	if err := os.WriteFile(filepath.Join(place, "log", "sysbox-fs.log"), []byte("what sysbox-fs says\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	d := newSysboxDaemon(t, c, place)
	_, err := builder.Solve(t.Context(), d, markedRequest(t, c, "nasty /out", "nasty /own"))
	if err == nil {
		t.Fatal("the build succeeded without sysbox-mgr")
	}
	for _, want := range []string{
		"failed to register with sysbox-mgr: no subordinate ids are left", place + "/log/sysbox-mgr.log:", "line 30 of what sysbox-mgr suffers",
		place + "/log/sysbox-fs.log:", "what sysbox-fs says", "RUN tool nasty /out",
	} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("the message has no %q:\n%v", want, err)
		}
	}
	// The step's own failure is not Sysbox's.
	_, err = builder.Solve(t.Context(), d, markedRequest(t, c, "nasty /out", "fail 3 7"))
	if err == nil || !strings.Contains(err.Error(), "exit code 7") && !strings.Contains(err.Error(), "no subordinate ids") {
		t.Errorf("got %v", err)
	}
}

// A marked step that fails by itself, and one that is killed by a signal, keep their exit statuses, and Sysbox is not accused.
func TestSysboxStatus(t *testing.T) {
	c := buildtest.Cache(t)
	place := startSysbox(t)
	d := newSysboxDaemon(t, c, place)
	_, err := builder.Solve(t.Context(), d, markedRequest(t, c, "fail 3 7", "interfaces /own"))
	if err == nil || !strings.Contains(err.Error(), "exit code 7") || !strings.Contains(err.Error(), "line 3") || strings.Contains(err.Error(), "sysbox-mgr.log") {
		t.Errorf("got %v", err)
	}
	r := markedRequest(t, c, "interfaces /out", "interfaces /own")
	r.Dockerfile = []byte(strings.Replace(string(r.Dockerfile), "--network=none", "--network=default", 1))
	if _, err := builder.Solve(t.Context(), d, r); err == nil || !strings.Contains(err.Error(), "can't share namespaces [network] with the host") {
		t.Errorf("host networking gave %v", err)
	}
}

func TestSysboxIsFound(t *testing.T) {
	c := buildtest.Cache(t)
	options := Options{Cache: c, Buildkitd: buildtest.Buildkitd(t)}
	named := Options{Cache: c, Buildkitd: buildtest.Buildkitd(t), Runtime: RuntimeSysbox}
	check := func(when string, auto bool, want string) {
		t.Helper()
		d, err := New(options)
		if err != nil {
			t.Fatalf("%s: %v", when, err)
		}
		if got := d.runtimes.sysbox != ""; got != auto {
			t.Errorf("%s: auto takes Sysbox is %t", when, got)
		}
		if _, err := New(named); want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%s: sysbox-runc gives %v, want %q", when, err, want)
		}
	}
	lookForSysbox(t, t.TempDir())
	check("nothing is there", false, "install Sysbox")
	place := installSysbox(t, buildtest.Recorder(t))
	t.Setenv("PATH", place+":"+os.Getenv("PATH"))
	check("no daemon runs", false, "reaching sysbox-mgr")
	mgr, err := net.Listen("unix", sysboxDaemons[0].socket)
	if err != nil {
		t.Fatal(err)
	}
	check("only sysbox-mgr runs", false, "reaching sysbox-fs")
	fs, err := net.Listen("unix", sysboxDaemons[1].socket)
	if err != nil {
		t.Fatal(err)
	}
	check("both run", true, "")
	// A killed daemon leaves its socket.
	fs.(*net.UnixListener).SetUnlinkOnClose(false)
	_, _ = fs.Close(), mgr.Close
	check("sysbox-fs was killed", false, `start it with "systemctl start sysbox"`)
	_ = mgr.Close()
}
