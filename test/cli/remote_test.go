package cli

import (
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/nodeimg/nodeimg/builder/remote"
)

// startBuildkitd runs a daemon with a state of its own, as somebody else would, and returns its address.
func startBuildkitd(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "nodeimg-bk-")
	if err != nil {
		t.Fatal(err)
	}
	address := "unix://" + filepath.Join(dir, "s")
	log, err := os.Create(filepath.Join(dir, "log"))
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(buildkitd, "--config", filepath.Join(dir, "none.toml"), "--root", filepath.Join(dir, "root"), "--addr", address,
		"--containerd-worker=false", "--oci-worker=true", "--oci-worker-net=host", "--otel-socket-path", filepath.Join(dir, "otel.sock"))
	cmd.Stdout, cmd.Stderr = log, log
	cmd.Env = append(os.Environ(), "TMPDIR="+dir)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		_ = cmd.Wait()
		_ = log.Close()
		if b, _ := os.ReadFile(log.Name()); t.Failed() {
			t.Logf("buildkitd's log:\n%s", b)
		}
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	eventually(t, "buildkitd answers", func() bool {
		b, err := remote.New(address)
		if err != nil {
			t.Fatal(err)
		}
		defer b.Close()
		_, err = b.Connect(t.Context())
		return err == nil
	})
	return address
}

func TestRemoteBuilder(t *testing.T) {
	w := newWorkplace(t)
	w.standard()
	want := w.build().digest()
	address := startBuildkitd(t)
	// Without --no-cache the image would come from nodeimg's own memory.
	if got := w.build("--no-cache", "--builder", address).digest(); got != want {
		t.Errorf("the builder at --builder made %s, nodeimg's own %s", got, want)
	}
	w.env = append(w.env, "BUILDKIT_HOST="+address)
	// Without runc in PATH nodeimg can start no builder of its own.
	out := w.build("--no-cache")
	if got := out.digest(); got != want {
		t.Errorf("the builder at BUILDKIT_HOST made %s, nodeimg's own %s", got, want)
	}
}
