package conformance

import (
	"bytes"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nodeimg/nodeimg/builder/child"
	"github.com/nodeimg/nodeimg/test/internal/tools"
)

// sysboxSockets is where Sysbox's daemons listen.
const sysboxSockets = "/run/sysbox"

// startSysbox starts what stands in for Sysbox and behaves like it towards BuildKit and images. It ends with the test, which fails when a
// step that ran under it did not end well.
func startSysbox(t *testing.T) {
	t.Helper()
	program, err := tools.Command(t.Context(), "test/internal/sysbox")
	if err != nil {
		t.Fatal(err)
	}
	place := filepath.Join(work, "sysbox")
	for _, dir := range []string{"", "run", "log", "data"} {
		if err := os.Mkdir(filepath.Join(place, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{child.RuntimeSysbox, "sysbox-mgr"} {
		if err := os.Symlink(program, filepath.Join(place, name)); err != nil {
			t.Fatal(err)
		}
	}
	// The mount is this process's own; only the folder under it shows on the machine, and only while the test lasts.
	made := os.Mkdir(sysboxSockets, 0o755) == nil
	if err := unix.Mount(filepath.Join(place, "run"), sysboxSockets, "", unix.MS_BIND, ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(sysboxSockets, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
		if made {
			_ = os.Remove(sysboxSockets)
		}
		if err := os.RemoveAll(place); err != nil {
			t.Error(err)
		}
	})
	var said bytes.Buffer
	daemon := exec.Command(filepath.Join(place, "sysbox-mgr"))
	daemon.Stderr = &said
	if err := daemon.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = daemon.Process.Signal(unix.SIGTERM)
		_ = daemon.Wait()
		log, err := os.ReadFile(filepath.Join(place, "log", "sysbox-mgr.log"))
		if in, out := strings.Count(string(log), "\nregister "), strings.Count(string(log), "\nunregister "); err != nil || in != out ||
			strings.Contains(string(log), "failed") {
			t.Errorf("Sysbox ran %d steps and ended %d (%v):\n%s%s", in, out, err, log, said.String())
		}
	})
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(20 * time.Millisecond) {
		err := answers(filepath.Join(sysboxSockets, "sysmgr.sock"), filepath.Join(sysboxSockets, "sysfs.sock"))
		if err == nil {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("sysbox-mgr does not answer: %v\n%s", err, said.String())
		}
	}
	t.Setenv("PATH", place+":"+os.Getenv("PATH"))
}

func answers(sockets ...string) error {
	for _, socket := range sockets {
		conn, err := net.Dial("unix", socket)
		if err != nil {
			return fmt.Errorf("reaching %s: %w", socket, err)
		}
		_ = conn.Close()
	}
	return nil
}
