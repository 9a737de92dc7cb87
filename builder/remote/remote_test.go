package remote

import (
	"context"
	"errors"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/moby/buildkit/util/staticfs"
	"github.com/tonistiigi/fsutil"
	fstypes "github.com/tonistiigi/fsutil/types"

	"github.com/nodeimg/nodeimg/builder"
	"github.com/nodeimg/nodeimg/builder/internal/buildtest"
	"github.com/nodeimg/nodeimg/recipes"
)

// daemon starts a buildkitd at the addresses and stops it when the test ends.
func daemon(t *testing.T, addresses ...string) *exec.Cmd {
	t.Helper()
	dir := t.TempDir()
	args := []string{"--config", filepath.Join(dir, "none.toml"), "--root", filepath.Join(dir, "root"), "--containerd-worker=false",
		"--oci-worker=true", "--oci-worker-net=host", "--otel-socket-path", filepath.Join(dir, "otel.sock")}
	for _, a := range addresses {
		args = append(args, "--addr", a)
	}
	cmd := exec.Command(buildtest.Buildkitd(t), args...)
	log, err := os.Create(filepath.Join(dir, "log"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = log.Close() })
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		_ = cmd.Wait()
		if b, _ := os.ReadFile(log.Name()); t.Failed() {
			t.Logf("buildkitd's log:\n%s", b)
		}
	})
	return cmd
}

// copyRequest is a build without a step that runs anything.
func copyRequest(t *testing.T) builder.Request {
	extra := staticfs.NewFS()
	extra.Add("file", &fstypes.Stat{}, []byte("content"))
	return builder.Request{
		Name: "remote", Dockerfile: []byte("FROM scratch\nCOPY --from=extra file /\n"), Output: t.TempDir(),
		Contexts: map[string]fsutil.FS{"extra": extra},
	}
}

func TestSolve(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	tcp := "tcp://" + listener.Addr().String()
	if err := listener.Close(); err != nil {
		t.Fatal(err)
	}
	unix := "unix://" + filepath.Join(t.TempDir(), "s")
	cmd := daemon(t, unix, tcp)

	var digests []string
	for _, address := range []string{unix, tcp} {
		b, err := New(address)
		if err != nil {
			t.Fatal(err)
		}
		defer b.Close()
		buildtest.Eventually(t, "the daemon answers", func() bool {
			_, err := b.Connect(t.Context())
			return err == nil
		})
		result, err := builder.Solve(t.Context(), b, copyRequest(t))
		if err != nil {
			t.Fatal(err)
		}
		digests = append(digests, result.Digest.String())
	}
	if len(digests) != 2 || digests[0] == "" {
		t.Errorf("got digests %q", digests)
	}

	b, err := New(unix)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := b.Connect(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
	if _, err := builder.Solve(t.Context(), b, copyRequest(t)); err == nil || !strings.Contains(err.Error(), "the connection to the builder "+unix+" broke") {
		t.Errorf("a build with a dead daemon gave %v", err)
	}
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := b.Connect(t.Context()); err == nil {
		t.Error("a closed builder connected")
	}
}

func TestConnectErrors(t *testing.T) {
	silent, err := net.Listen("unix", filepath.Join(t.TempDir(), "s"))
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	for _, test := range []struct{ name, address, want string }{
		{"no socket", "unix://" + filepath.Join(t.TempDir(), "none"), "no such file or directory"},
		{"nobody accepts", "unix://" + silent.Addr().String(), "no answer within 5s"},
		{"no such container", "docker-container://nodeimg-nowhere", "docker-container://nodeimg-nowhere"},
	} {
		t.Run(test.name, func(t *testing.T) {
			b, err := New(test.address)
			if err != nil {
				t.Fatal(err)
			}
			defer b.Close()
			_, err = b.Connect(t.Context())
			if err == nil {
				t.Fatal("it connected")
			}
			for _, want := range []string{test.want, test.address, "--builder", EnvironmentVariable} {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("the message has no %q: %v", want, err)
				}
			}
		})
	}
	t.Run("cancelled", func(t *testing.T) {
		b, err := New("unix://" + silent.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer b.Close()
		interrupted := errors.New("interrupted")
		ctx, cancel := context.WithCancelCause(t.Context())
		cancel(interrupted)
		if _, err := b.Connect(ctx); !errors.Is(err, interrupted) {
			t.Errorf("got %v", err)
		}
	})
}

func TestNew(t *testing.T) {
	for _, test := range []struct{ address, want string }{
		{"unix:///run/buildkit/buildkitd.sock", ""},
		{"tcp://127.0.0.1:1234", ""},
		{"tcp://[::1]:1234", ""},
		{"docker-container://buildkitd", ""},
		{"kube-pod://buildkitd?namespace=build", ""},
		{"ssh://root@builder.example", ""},
		{"", "it has no scheme"},
		{"/run/buildkit/buildkitd.sock", "it has no scheme"},
		{"127.0.0.1:1234", "it is not a URL"},
		{"unix://run/buildkitd.sock", "three slashes"},
		{"unix://", "three slashes"},
		{"tcp://builder.example", "a host and a port"},
		{"http://127.0.0.1:1234", `the scheme "http" is unknown`},
		{"docker-container://", "it names nothing"},
	} {
		t.Run(test.address, func(t *testing.T) {
			b, err := New(test.address)
			if test.want == "" {
				if err != nil || b.String() != test.address {
					t.Errorf("got %v, %v", b, err)
				}
				return
			}
			var input *recipes.InputError
			if !errors.As(err, &input) || !strings.Contains(err.Error(), test.want) || !strings.Contains(err.Error(), "--builder") {
				t.Errorf("got %v, want an InputError with %q", err, test.want)
			}
		})
	}
}
