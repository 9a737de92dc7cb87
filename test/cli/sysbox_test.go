package cli

import (
	"encoding/json"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/nodeimg/nodeimg/recipes"
	"github.com/nodeimg/nodeimg/test/internal/tools"
)

// installSysbox compiles a program of this repository and puts it where nodeimg looks for Sysbox; these tests have an empty /run.
func (w *workplace) installSysbox(pkg string) (place string) {
	w.t.Helper()
	repository, err := tools.Root(w.t.Context())
	if err != nil {
		w.t.Fatal(err)
	}
	cmd := exec.CommandContext(w.t.Context(), "go", "build", "-o", w.path("program"), pkg)
	cmd.Dir = repository
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		w.t.Fatalf("compiling %s: %v\n%s", pkg, err, out)
	}
	// Root of a container is another user, who has to get at its root file system.
	place = "/run/sysbox-" + filepath.Base(pkg)
	for _, dir := range []string{"", "run", "log", "data"} {
		if err := os.Mkdir(filepath.Join(place, dir), 0o755); err != nil {
			w.t.Fatal(err)
		}
	}
	for link, target := range map[string]string{
		filepath.Join(place, "sysbox-runc"): w.path("program"), filepath.Join(place, "sysbox-mgr"): w.path("program"),
		"/run/sysbox": filepath.Join(place, "run"),
	} {
		if err := os.Symlink(target, link); err != nil {
			w.t.Fatal(err)
		}
	}
	w.t.Cleanup(func() {
		if err := os.RemoveAll(place); err != nil {
			w.t.Error(err)
		}
		if err := os.Remove("/run/sysbox"); err != nil {
			w.t.Error(err)
		}
	})
	w.env = append(w.env, "PATH="+place+":"+os.Getenv("PATH"))
	return place
}

// inner is a recipe whose images the node's own containerd pulls.
func (w *workplace) inner() {
	w.t.Helper()
	hub().push(w.t, "library/inner:1", newImage(w.t, 0))
	w.recipe(func(spec *recipes.Spec) {
		spec.Mirrors["docker.io"] = "http://" + hub().host
		spec.Preload.Images = []recipes.ImageSource{{Registry: "inner:1"}}
		spec.Preload.Engine = recipes.EngineInner
	})
}

// TestSysbox builds one recipe under runc, through nodeimg's own runtime with runc behind it, and under what behaves like Sysbox.
func TestSysbox(t *testing.T) {
	w := newWorkplace(t)
	w.inner()
	want := w.build("--no-cache", "--worker-runtime", "runc").digest()
	pulls := len(w.lock().Images)

	t.Run("recorder", func(t *testing.T) {
		w := &workplace{t: t, dir: w.dir, env: w.env}
		place := w.installSysbox("./test/internal/sysbox/recorder")
		for _, name := range []string{"sysmgr.sock", "sysfs.sock"} {
			listener, err := net.Listen("unix", filepath.Join("/run/sysbox", name))
			if err != nil {
				t.Fatal(err)
			}
			defer listener.Close()
		}
		// The entitlement is granted to those who ask; nobody does.
		if got := w.build("--no-cache", "--allow", "security.insecure").digest(); got != want {
			t.Errorf("the image is %s, under runc %s", got, want)
		}
		text, err := os.ReadFile(filepath.Join(place, "calls"))
		if err != nil {
			t.Fatal(err)
		}
		var ran, touched []string
		for line := range strings.Lines(string(text)) {
			var call []string
			if err := json.Unmarshal([]byte(line), &call); err != nil {
				t.Fatal(err)
			}
			if id := call[len(call)-1]; slices.Contains(call, "run") {
				ran = append(ran, id)
			} else {
				touched = append(touched, id)
			}
			if slices.Contains(call, "--keep") {
				t.Errorf("called with %q", call)
			}
		}
		if len(ran) != pulls {
			t.Errorf("%d steps ran, want the %d that pull:\n%s", len(ran), pulls, text)
		}
		for _, id := range touched {
			if !slices.Contains(ran, id) {
				t.Errorf("called about %s, which is another runtime's:\n%s", id, text)
			}
		}
	})
	t.Run("stand-in", func(t *testing.T) {
		w := &workplace{t: t, dir: w.dir, env: w.env}
		place := w.installSysbox("./test/internal/sysbox")
		daemon := exec.Command(filepath.Join(place, "sysbox-mgr"))
		daemon.Stderr = os.Stderr
		if err := daemon.Start(); err != nil {
			t.Fatal(err)
		}
		defer func() {
			_ = daemon.Process.Signal(unix.SIGTERM)
			_ = daemon.Wait()
		}()
		eventually(t, "sysbox-mgr answers", func() bool {
			conn, err := net.Dial("unix", "/run/sysbox/sysmgr.sock")
			if err == nil {
				_ = conn.Close()
			}
			return err == nil
		})
		if got := w.build("--no-cache", "--worker-runtime", "sysbox-runc").digest(); got != want {
			t.Errorf("the image is %s, under runc %s", got, want)
		}
		log, err := os.ReadFile(filepath.Join(place, "log", "sysbox-mgr.log"))
		if err != nil {
			t.Fatal(err)
		}
		if in, out := strings.Count(string(log), "\nregister "), strings.Count(string(log), "\nunregister "); in != pulls || out != pulls || strings.Contains(string(log), "failed") {
			t.Errorf("Sysbox ran %d steps and ended %d, want the %d that pull:\n%s", in, out, pulls, log)
		}
	})
}
