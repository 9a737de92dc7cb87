package release

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/nodeimg/nodeimg/internal/cache"
	"github.com/nodeimg/nodeimg/internal/fetch"
)

// payload is a real program, compiled once: it writes its arguments and environment, and fails when it is told to.
var payload = sync.OnceValues(func() ([]byte, error) {
	dir, err := os.MkdirTemp("", "payload")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	source := `package main
import ("fmt"; "os"; "strings"; "time")
func main() {
	fmt.Println(strings.Join(os.Args, " "))
	fmt.Println(strings.Join(os.Environ(), " "))
	fmt.Fprintln(os.Stderr, "a warning")
	if len(os.Args) > 1 && os.Args[1] == "fail" { fmt.Fprintln(os.Stderr, "it failed"); os.Exit(3) }
	if len(os.Args) > 1 && os.Args[1] == "hang" { time.Sleep(time.Hour) }
}`
	if err := os.WriteFile(filepath.Join(dir, "main.go"), []byte(source), 0o644); err != nil {
		return nil, err
	}
	build := exec.Command("go", "build", "-trimpath", "-ldflags=-s -w", "-o", "payload", "main.go")
	build.Dir = dir
	build.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=-mod=mod", "GOWORK=off")
	if out, err := build.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("%w: %s", err, out)
	}
	return os.ReadFile(filepath.Join(dir, "payload"))
})

// namedProgram is the payload, told apart by bytes after its end, which do not matter to the kernel.
func namedProgram(t *testing.T, name string) []byte {
	t.Helper()
	program, err := payload()
	if err != nil {
		t.Fatal(err)
	}
	return append(slices.Clip(program), name...)
}

// entry is a file in an archive.
type entry struct {
	header  tar.Header
	content []byte
}

func file(name string, content []byte) entry {
	return entry{tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o755, Size: int64(len(content))}, content}
}

func archive(t *testing.T, entries ...entry) []byte {
	t.Helper()
	var b bytes.Buffer
	zip, err := gzip.NewWriterLevel(&b, gzip.NoCompression)
	if err != nil {
		t.Fatal(err)
	}
	w := tar.NewWriter(zip)
	for _, e := range entries {
		if err := w.WriteHeader(&e.header); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(e.content); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(w.Close(), zip.Close()); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// releaseServer serves files in the layout of the projects' own servers.
type releaseServer struct {
	*httptest.Server
	files    map[string][]byte
	requests atomic.Int64
}

func startServer(t *testing.T) *releaseServer {
	t.Helper()
	s := &releaseServer{files: map[string][]byte{}}
	s.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.requests.Add(1)
		content, ok := s.files[r.URL.Path]
		if !ok {
			http.NotFound(w, r)
			return
		}
		_, _ = w.Write(content)
	}))
	t.Cleanup(s.Close)
	return s
}

func (s *releaseServer) client(t *testing.T) *fetch.Client {
	t.Helper()
	c, err := cache.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	return &fetch.Client{
		Cache: c, RetryWait: time.Millisecond,
		Mirrors: map[string]string{
			"dl.k8s.io": s.URL + "/k8s", "github.com": s.URL + "/github", "download.docker.com": s.URL + "/docker", "storage.googleapis.com": s.URL + "/storage",
		},
	}
}

// publish serves a file, with its checksum in the form that suffix says.
func (s *releaseServer) publish(path, suffix string, content []byte) {
	s.files[path] = content
	name := path[strings.LastIndex(path, "/")+1:]
	sum := digest.FromBytes(content).Encoded()
	switch suffix {
	case ".sha256":
		s.files[path+suffix] = []byte(sum)
	case ".sha256sum":
		s.files[path+suffix] = fmt.Appendf(nil, "%s  %s\n", sum, name)
	default:
		s.files[suffix] = fmt.Appendf(nil, "-----BEGIN PGP SIGNED MESSAGE-----\nHash: SHA512\n\n%s *other\n%s *%s\n", digest.FromString("x").Encoded(), sum, name)
	}
}

// publishAll serves everything that a request asks for.
func (s *releaseServer) publishAll(t *testing.T, arch string) {
	t.Helper()
	for _, name := range []string{"kubeadm", "kubelet", "kubectl"} {
		s.publish("/k8s/release/v1.34.10/bin/linux/"+arch+"/"+name, ".sha256", namedProgram(t, name))
	}
	s.publish("/github/containerd/containerd/releases/download/v2.4.2/containerd-2.4.2-linux-"+arch+".tar.gz", ".sha256sum", archive(t,
		entry{header: tar.Header{Typeflag: tar.TypeDir, Name: "bin/", Mode: 0o755}},
		file("bin/containerd", namedProgram(t, "containerd")), file("bin/containerd-stress", []byte("not wanted")),
		file("bin/containerd-shim-runc-v2", namedProgram(t, "containerd-shim-runc-v2")), file("bin/ctr", namedProgram(t, "ctr")),
	))
	const runcs = "/github/opencontainers/runc/releases/download/v1.5.2/"
	s.publish(runcs+"runc."+arch, runcs+"runc.sha256sum", namedProgram(t, "runc"))
	plugins := []entry{{header: tar.Header{Typeflag: tar.TypeDir, Name: "./", Mode: 0o755}}, file("./README.md", []byte("read"))}
	for _, p := range cniPlugins(arch).programs {
		plugins = append(plugins, file("./"+p.entry, namedProgram(t, p.entry)))
	}
	s.publish("/github/containernetworking/plugins/releases/download/v1.9.1/cni-plugins-linux-"+arch+"-v1.9.1.tgz", ".sha256", archive(t, plugins...))
	s.publish("/github/kubernetes-sigs/cri-tools/releases/download/v1.36.0/crictl-v1.36.0-linux-"+arch+".tar.gz", ".sha256",
		archive(t, file("crictl", namedProgram(t, "crictl"))))
}
