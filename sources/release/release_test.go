package release

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/moby/buildkit/client"
	"github.com/opencontainers/go-digest"

	"github.com/nodeimg/nodeimg/internal/cache"
	"github.com/nodeimg/nodeimg/internal/fetch"
	"github.com/nodeimg/nodeimg/internal/progress"
	"github.com/nodeimg/nodeimg/recipes"
)

var request = Request{Kubernetes: "v1.34.10", CRI: recipes.CRI{Name: recipes.CRIContainerd, Version: "2.4.2"}, Platform: "linux/amd64", CNI: recipes.CNIFlannel}

func resolveAll(ctx context.Context, c *fetch.Client, arch string) ([]recipes.LockedPart, error) {
	var parts []recipes.LockedPart
	for _, d := range downloads(request, arch) {
		found, err := resolveDownload(ctx, c, d)
		if err != nil {
			return nil, err
		}
		parts = append(parts, found...)
	}
	return parts, nil
}

// The whole of Resolve runs a real kubeadm; it is tested end to end by test/upstream.
func TestResolveDownloads(t *testing.T) {
	for _, arch := range []string{"amd64", "arm64"} {
		t.Run(arch, func(t *testing.T) {
			s := startServer(t)
			s.publishAll(t, arch)
			c := s.client(t)
			parts, err := resolveAll(t.Context(), c, arch)
			if err != nil {
				t.Fatal(err)
			}
			if len(parts) != 3+3+1+18+1 {
				t.Errorf("%d parts, want 26", len(parts))
			}
			for _, p := range parts {
				want := namedProgram(t, filepath.Base(p.Path))
				if p.Digest != digest.FromBytes(want).String() || p.Size != int64(len(want)) || p.Version[0] != 'v' || !strings.HasPrefix(p.Origin, "https://") {
					t.Errorf("part %+v is not what was published", p)
				}
				if !c.Cache.Has(digest.Digest(p.Digest)) {
					t.Errorf("%s is not in the cache", p.Path)
				}
			}
		})
	}
}

func TestASecondResolveDownloadsAndUnpacksNothing(t *testing.T) {
	s := startServer(t)
	s.publishAll(t, "amd64")
	c := s.client(t)
	first, err := resolveAll(t.Context(), c, "amd64")
	if err != nil {
		t.Fatal(err)
	}
	for path := range s.files {
		if !strings.Contains(path, ".sha256") {
			delete(s.files, path)
		}
	}
	// Without the archives nothing could be unpacked.
	for _, d := range downloads(request, "amd64") {
		if d.programs[0].entry == "" {
			continue
		}
		sum, err := publishedSum(t.Context(), c, d.checksums, d.url[strings.LastIndex(d.url, "/")+1:])
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(c.Cache.Path(sum), nil, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	second, err := resolveAll(t.Context(), c, "amd64")
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(first, second) {
		t.Error("a second resolve found something else")
	}
}

func TestALostProgramIsUnpackedAgain(t *testing.T) {
	s := startServer(t)
	s.publishAll(t, "amd64")
	c := s.client(t)
	first, err := resolveDownload(t.Context(), c, criTools("amd64"))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(c.Cache.Path(digest.Digest(first[0].Digest))); err != nil {
		t.Fatal(err)
	}
	if _, err := resolveDownload(t.Context(), c, criTools("amd64")); err != nil {
		t.Fatal(err)
	}
	if !c.Cache.Has(digest.Digest(first[0].Digest)) {
		t.Error("the program is not in the cache")
	}
}

func TestHostileDownloads(t *testing.T) {
	d := criTools("amd64")
	path := strings.Replace(d.url, githubServer, "/github", 1)
	program := namedProgram(t, "crictl")
	for _, test := range []struct {
		name    string
		content []byte
		says    string
	}{
		{"no archive", []byte("<html>"), "not compressed with gzip"},
		{"no program", archive(t, file("README", []byte("x"))), "it holds no crictl"},
		{"twice", archive(t, file("crictl", program), file("./crictl", program)), "it holds crictl twice"},
		{"link", archive(t, entry{header: tar.Header{Typeflag: tar.TypeSymlink, Name: "crictl", Linkname: "/bin/sh"}}), "not a program"},
		{"folder", archive(t, entry{header: tar.Header{Typeflag: tar.TypeDir, Name: "crictl/"}}), "not a program"},
		{"empty program", archive(t, file("crictl", nil)), "not a program"},
		{"only in other folders", archive(t, file("../crictl", program), file("/crictl", program), file("a/../../crictl", program)), "it holds no crictl"},
		{"cut", archive(t, file("crictl", program))[:1000], "reading the archive"},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := startServer(t)
			s.publish(path, ".sha256", test.content)
			_, err := resolveDownload(t.Context(), s.client(t), d)
			if err == nil || !strings.Contains(err.Error(), test.says) || !strings.HasPrefix(err.Error(), "getting cri-tools v1.36.0: ") {
				t.Errorf("want %q, got %v", test.says, err)
			}
		})
	}
}

func TestResolveFailures(t *testing.T) {
	const kubelet = "/k8s/release/v1.34.10/bin/linux/amd64/kubelet"
	for _, test := range []struct {
		name   string
		change func(s *releaseServer)
		check  func(err error) bool
	}{
		{"version that does not exist", func(s *releaseServer) { delete(s.files, kubelet+".sha256") }, func(err error) bool {
			var status *fetch.StatusError
			return errors.As(err, &status) && status.Code == http.StatusNotFound && strings.Contains(err.Error(), "kubelet")
		}},
		{"wrong bytes", func(s *releaseServer) { s.files[kubelet] = []byte("something else") }, func(err error) bool {
			var mismatch *cache.DigestError
			return errors.As(err, &mismatch)
		}},
		{"login page instead of a checksum", func(s *releaseServer) { s.files[kubelet+".sha256"] = []byte("<html>log in</html>") }, func(err error) bool {
			return strings.Contains(err.Error(), "no sha256 for kubelet")
		}},
		{"endless checksum", func(s *releaseServer) { s.files[kubelet+".sha256"] = bytes.Repeat([]byte("x"), 1<<20) }, func(err error) bool {
			return strings.Contains(err.Error(), "longer than")
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := startServer(t)
			s.publishAll(t, "amd64")
			test.change(s)
			c := s.client(t)
			if _, err := resolveAll(t.Context(), c, "amd64"); err == nil || !test.check(err) {
				t.Errorf("got %v", err)
			}
			// The next run works.
			s.publishAll(t, "amd64")
			if _, err := resolveAll(t.Context(), c, "amd64"); err != nil {
				t.Errorf("the next run: %v", err)
			}
		})
	}
}

func TestResolveBadRequests(t *testing.T) {
	for _, req := range []Request{
		{Kubernetes: "v1.34.10", Platform: "windows/amd64"},
		{Kubernetes: "v1.34.10", Platform: "linux"},
		{Kubernetes: "v1.34.10", Platform: "linux/amd64", CNI: recipes.CNICalico},
	} {
		_, _, err := Resolve(t.Context(), startServer(t).client(t), req)
		var input *recipes.InputError
		if !errors.As(err, &input) {
			t.Errorf("%+v: want an input error, got %v", req, err)
		}
	}
}

func TestResolveStopsWithItsContext(t *testing.T) {
	stopped := errors.New("stopped by the user")
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(stopped)
	if _, _, err := Resolve(ctx, startServer(t).client(t), request); !errors.Is(err, stopped) {
		t.Errorf("want %v, got %v", stopped, err)
	}
}

func TestParseSum(t *testing.T) {
	signed, err := os.ReadFile("testdata/runc.sha256sum")
	if err != nil {
		t.Fatal(err)
	}
	sum := strings.Repeat("ab", 32)
	for _, test := range []struct{ name, text, file, want string }{
		{"alone", sum, "kubeadm", sum},
		{"alone with newline", sum + "\n", "kubeadm", sum},
		{"upper case", strings.ToUpper(sum), "kubeadm", sum},
		{"sha256sum", sum + "  a.tgz\n" + strings.Repeat("00", 32) + "  b.tgz\n", "a.tgz", sum},
		{"with folder", sum + "  ./out/a.tgz\n", "a.tgz", sum},
		{"signed", string(signed), "runc.amd64", strings.Repeat("0", 63) + "2"},
		{"another file", sum + "  a.tgz\n", "b.tgz", ""},
		{"two sums without names", sum + "\n" + strings.Repeat("00", 32), "a", ""},
		{"too short", sum[:63], "a", ""},
		{"empty", "", "a", ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			got, ok := parseSum(test.text, test.file)
			if ok != (test.want != "") || ok && got.Encoded() != test.want {
				t.Errorf("got %q, %t; want %q", got, ok, test.want)
			}
		})
	}
}

func TestParseImages(t *testing.T) {
	list, err := os.ReadFile("testdata/images-v1.34.10.txt")
	if err != nil {
		t.Fatal(err)
	}
	got, err := parseImages(string(list))
	if err != nil {
		t.Fatal(err)
	}
	want := []ImageRef{
		{"registry.k8s.io/kube-apiserver:v1.34.10", recipes.RoleControlPlane},
		{"registry.k8s.io/kube-controller-manager:v1.34.10", recipes.RoleControlPlane},
		{"registry.k8s.io/kube-scheduler:v1.34.10", recipes.RoleControlPlane},
		{"registry.k8s.io/kube-proxy:v1.34.10", recipes.RoleControlPlane},
		{"registry.k8s.io/coredns/coredns:v1.12.1", recipes.RoleDNS},
		{"registry.k8s.io/pause:3.10.1", recipes.RoleSandbox},
		{"registry.k8s.io/etcd:3.6.5-0", recipes.RoleEtcd},
	}
	if !slices.Equal(got, want) {
		t.Errorf("got %+v", got)
	}
	for name, bad := range map[string]string{
		"empty": "", "no tag": "registry.k8s.io/pause", "no reference": "Usage: kubeadm", "no etcd": strings.ReplaceAll(string(list), "etcd", "other"),
	} {
		if _, err := parseImages(bad); err == nil || !strings.Contains(err.Error(), "reading kubeadm's list") {
			t.Errorf("%s: got %v", name, err)
		}
	}
}

func TestPodNetworkImages(t *testing.T) {
	got, err := podNetworkImages(recipes.CNIFlannel)
	if err != nil || len(got) != 2 || got[0].Reference != "ghcr.io/flannel-io/flannel:v0.28.4" || got[1].Role != recipes.RoleCNI {
		t.Errorf("got %+v, %v", got, err)
	}
	if got, err := podNetworkImages(recipes.CNINone); err != nil || len(got) != 0 {
		t.Errorf("got %+v, %v", got, err)
	}
}

func TestRun(t *testing.T) {
	c, err := cache.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	// A blob in the cache is not executable.
	d, err := c.PutBytes(namedProgram(t, "run"))
	if err != nil {
		t.Fatal(err)
	}
	t.Setenv("HTTPS_PROXY", "http://proxy.example.com")
	out, err := run(t.Context(), c, d, "tool", "config", "images")
	if err != nil {
		t.Fatal(err)
	}
	if lines := strings.Split(out, "\n"); lines[0] != "tool config images" || strings.Contains(lines[1], "PROXY") || strings.Contains(out, "warning") {
		t.Errorf("it wrote %q", out)
	}
	_, err = run(t.Context(), c, d, "tool", "fail")
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != 3 || !strings.Contains(err.Error(), "it failed") {
		t.Errorf("got %v", err)
	}
	stopped := errors.New("stopped by the user")
	ctx, cancel := context.WithCancelCause(t.Context())
	time.AfterFunc(100*time.Millisecond, func() { cancel(stopped) })
	if _, err := run(ctx, c, d, "tool", "hang"); !errors.Is(err, stopped) {
		t.Errorf("want %v, got %v", stopped, err)
	}
	text, err := c.PutBytes([]byte("this is no program"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := run(t.Context(), c, text, "tool"); err == nil || !strings.HasPrefix(err.Error(), "running tool: ") {
		t.Errorf("got %v", err)
	}
}

// TestKnownImagesAskNobody gives the cache a real kubeadm's answer, so that kubeadm itself is not needed.
func TestKnownImagesAskNobody(t *testing.T) {
	s := startServer(t)
	s.publishAll(t, runtime.GOARCH)
	c := s.client(t)
	list, err := os.ReadFile("testdata/images-v1.34.10.txt")
	if err != nil {
		t.Fatal(err)
	}
	sum := digest.FromBytes(namedProgram(t, "kubeadm"))
	if err := c.Cache.PutFact("release-images-"+sum.Encoded()+"-v1.34.10", string(list)); err != nil {
		t.Fatal(err)
	}
	var cached atomic.Bool
	ctx := progress.WithSink(t.Context(), func(status *client.SolveStatus) {
		for _, v := range status.Vertexes {
			if v.Cached && strings.Contains(v.Name, "images of Kubernetes v1.34.10") {
				cached.Store(true)
			}
		}
	})
	req := request
	req.Platform = "linux/" + runtime.GOARCH
	parts, images, err := Resolve(ctx, c, req)
	if err != nil {
		t.Fatal(err)
	}
	if len(parts) != 26 || !slices.IsSortedFunc(parts, func(a, b recipes.LockedPart) int { return strings.Compare(a.Path, b.Path) }) {
		t.Errorf("%d parts", len(parts))
	}
	if len(images) != 9 || images[0].Reference != "ghcr.io/flannel-io/flannel-cni-plugin:v1.9.1-flannel1" {
		t.Errorf("images %+v", images)
	}
	if !cached.Load() {
		t.Error("the screen does not show that the images were known")
	}
}
