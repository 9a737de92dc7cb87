package preload

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/validate"
	"github.com/opencontainers/go-digest"

	"github.com/nodeimg/nodeimg/recipes"
)

// dial returns an HTTP transport that reaches the broker whatever the host.
func dial(b *Broker) *http.Transport {
	return &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", b.Socket())
	}}
}

// ask makes one request of the broker and returns status, header and body.
func ask(t *testing.T, b *Broker, method, path string, header http.Header) (int, http.Header, []byte, error) {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), method, "http://broker"+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	if header != nil {
		request.Header = header
	}
	transport := dial(b)
	defer transport.CloseIdleConnections()
	response, err := transport.RoundTrip(request)
	if err != nil {
		return 0, nil, nil, err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	return response.StatusCode, response.Header, body, err
}

func serve(t *testing.T, s *Sources, locked []recipes.LockedImage) *Broker {
	t.Helper()
	b, err := Serve(t.Context(), s, locked)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = b.Close() })
	return b
}

func TestBrokerServesTheLockAndNothingElse(t *testing.T) {
	s := newSources(t)
	locked := fetched(t, s)
	b := serve(t, s, locked)
	coredns, app := locked[2], locked[1]
	parts, err := readParts(s.Cache, coredns)
	if err != nil {
		t.Fatal(err)
	}
	layer := parts.layers[0]
	appParts, err := readParts(s.Cache, app)
	if err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		method, path string
		status       int
		holds        digest.Digest
	}{
		{"GET", "/v2/", 200, ""},
		{"GET", "/v2", 200, ""},
		{"GET", "/v2/coredns/coredns/manifests/v1.12.1?ns=registry.k8s.io", 200, digest.Digest(coredns.Digest)},
		{"HEAD", "/v2/coredns/coredns/manifests/v1.12.1?ns=registry.k8s.io", 200, digest.Digest(coredns.Digest)},
		{"GET", "/v2/coredns/coredns/manifests/" + coredns.Digest + "?ns=registry.k8s.io", 200, digest.Digest(coredns.Digest)},
		{"GET", "/v2/coredns/coredns/manifests/" + coredns.Manifest + "?ns=registry.k8s.io", 200, digest.Digest(coredns.Manifest)},
		{"GET", "/v2/registry.k8s.io/coredns/coredns/manifests/v1.12.1", 200, digest.Digest(coredns.Digest)},
		{"GET", "/v2/library/app/manifests/1?ns=docker.io", 200, digest.Digest(app.Digest)},
		{"GET", "/v2/library/app/manifests/1", 200, digest.Digest(app.Digest)},
		{"GET", "/v2/coredns/coredns/blobs/" + layer.Digest.String() + "?ns=registry.k8s.io", 200, layer.Digest},
		{"HEAD", "/v2/coredns/coredns/blobs/" + layer.Digest.String() + "?ns=registry.k8s.io", 200, layer.Digest},
		{"GET", "/v2/coredns/coredns/blobs/" + parts.config.Digest.String() + "?ns=registry.k8s.io", 200, parts.config.Digest},
		{"GET", "/v2/coredns/coredns/manifests/v1.12.1", 404, ""},
		{"GET", "/v2/coredns/coredns/manifests/v1.12.1?ns=docker.io", 404, ""},
		{"GET", "/v2/coredns/coredns/manifests/v1.12.2?ns=registry.k8s.io", 404, ""},
		{"GET", "/v2/coredns/coredns/manifests/" + app.Digest + "?ns=registry.k8s.io", 404, ""},
		{"GET", "/v2/coredns/coredns/blobs/" + appParts.layers[0].Digest.String() + "?ns=registry.k8s.io", 404, ""},
		{"GET", "/v2/coredns/coredns/blobs/sha256:../../etc/passwd?ns=registry.k8s.io", 404, ""},
		{"GET", "/v2/coredns/coredns/tags/list?ns=registry.k8s.io", 404, ""},
		{"GET", "/v2/coredns/coredns/manifests/?ns=registry.k8s.io", 404, ""},
		{"GET", "/v2/_catalog", 404, ""},
		{"GET", "/etc/passwd", 404, ""},
		{"PUT", "/v2/coredns/coredns/manifests/v1.12.1?ns=registry.k8s.io", 405, ""},
		{"POST", "/v2/coredns/coredns/blobs/uploads/?ns=registry.k8s.io", 405, ""},
		{"DELETE", "/v2/coredns/coredns/manifests/v1.12.1?ns=registry.k8s.io", 405, ""},
	} {
		status, header, body, err := ask(t, b, test.method, test.path, nil)
		if err != nil {
			t.Fatal(err)
		}
		if status != test.status {
			t.Errorf("%s %s: status %d, want %d: %s", test.method, test.path, status, test.status, body)
		}
		switch {
		case test.status >= 400:
			var refusal struct {
				Errors []struct{ Code, Message string }
			}
			if json.Unmarshal(body, &refusal) != nil || len(refusal.Errors) != 1 || refusal.Errors[0].Code == "" {
				t.Errorf("%s %s: the error body is %s", test.method, test.path, body)
			}
		case test.holds != "":
			size, err := s.Cache.Size(test.holds)
			if err != nil {
				t.Fatal(err)
			}
			if header.Get("Docker-Content-Digest") != test.holds.String() || header.Get("Content-Length") != fmt.Sprint(size) {
				t.Errorf("%s %s: header %v", test.method, test.path, header)
			}
			if test.method == "GET" && digest.FromBytes(body) != test.holds {
				t.Errorf("%s %s: wrong content", test.method, test.path)
			}
		}
	}
	if _, header, _, _ := ask(t, b, "GET", "/v2/coredns/coredns/manifests/v1.12.1?ns=registry.k8s.io", nil); header.Get("Content-Type") != coredns.MediaType {
		t.Errorf("the manifest's type is %s", header.Get("Content-Type"))
	}
	path := "/v2/coredns/coredns/blobs/" + layer.Digest.String() + "?ns=registry.k8s.io"
	status, _, body, err := ask(t, b, "GET", path, http.Header{"Range": {"bytes=10-19"}})
	whole, readErr := os.ReadFile(s.Cache.Path(layer.Digest))
	if err := errors.Join(err, readErr); err != nil {
		t.Fatal(err)
	}
	if status != http.StatusPartialContent || string(body) != string(whole[10:20]) {
		t.Errorf("a range gave status %d and %d bytes", status, len(body))
	}
	if err := b.Err(); err != nil {
		t.Error(err)
	}
}

// TestBrokerPassesConformance pulls with go-containerregistry, which checks every digest.
func TestBrokerPassesConformance(t *testing.T) {
	s := newSources(t)
	b := serve(t, s, fetched(t, s))
	transport := dial(b)
	defer transport.CloseIdleConnections()
	for _, path := range []string{"registry.k8s.io/pause:3.10", "registry.k8s.io/coredns/coredns:v1.12.1", "library/app:1"} {
		ref, err := name.ParseReference("localhost:5000/"+path, name.Insecure)
		if err != nil {
			t.Fatal(err)
		}
		image, err := remote.Image(ref, remote.WithTransport(transport), remote.WithContext(t.Context()))
		if err != nil {
			t.Fatal(err)
		}
		if err := validate.Image(image); err != nil {
			t.Error(err)
		}
	}
}

func TestBrokerFetchesEachBlobOnce(t *testing.T) {
	p, s := startRegistry(t), newSources(t)
	image := newImage(t, "amd64", 3, 50_000)
	locked := mustResolve(t, s, recipes.ImageSource{Registry: p.push(t, "a/b:1", image)})
	locked = append(locked, mustResolve(t, s, recipes.ImageSource{Registry: p.push(t, "a/other:1", image)})...)
	p.forget()
	b := serve(t, s, locked)
	parts, err := readParts(s.Cache, locked[0])
	if err != nil {
		t.Fatal(err)
	}
	var group sync.WaitGroup
	for range 4 {
		for _, layer := range parts.layers {
			for _, repository := range []string{"a/b", "a/other"} {
				group.Go(func() {
					_, _, body, err := ask(t, b, "GET", "/v2/"+repository+"/blobs/"+layer.Digest.String()+"?ns="+p.host, nil)
					if err != nil || digest.FromBytes(body) != layer.Digest {
						t.Errorf("%s: %v", layer.Digest, err)
					}
				})
			}
		}
	}
	group.Wait()
	total := 0
	for _, n := range p.counts("/blobs/") {
		total += n
	}
	if total != len(parts.layers) {
		t.Errorf("the registry was asked for %v", p.counts("/blobs/"))
	}
}

func TestBrokerNeverServesUnverifiedBytes(t *testing.T) {
	for name, patience := range map[string]time.Duration{"header after the fetch": headerPatience, "header before the fetch": 0} {
		t.Run(name, func(t *testing.T) {
			p, s := startRegistry(t), newSources(t)
			locked := mustResolve(t, s, recipes.ImageSource{Registry: p.push(t, "a/b:1", newImage(t, "amd64", 1, 50_000))})
			parts, err := readParts(s.Cache, locked[0])
			if err != nil {
				t.Fatal(err)
			}
			layer := parts.layers[0]
			p.set(func(w http.ResponseWriter, r *http.Request, _ http.Handler) bool {
				if !strings.Contains(r.URL.Path, "/blobs/") {
					return false
				}
				_, _ = w.Write(make([]byte, layer.Size))
				return true
			})
			b := serve(t, s, locked)
			b.patience = patience
			path := "/v2/a/b/blobs/" + layer.Digest.String() + "?ns=" + p.host
			status, _, body, err := ask(t, b, "GET", path, nil)
			if status == http.StatusOK && err == nil || len(body) == int(layer.Size) {
				t.Errorf("a wrong blob was served: status %d, %d bytes, %v", status, len(body), err)
			}
			if failure := b.Err(); failure == nil || !strings.Contains(failure.Error(), layer.Digest.String()) || !strings.Contains(failure.Error(), locked[0].Reference) {
				t.Errorf("the broker's error is %v", failure)
			}
			p.set(nil)
			if _, _, body, err := ask(t, b, "GET", path, nil); err != nil || digest.FromBytes(body) != layer.Digest {
				t.Errorf("after the registry healed: %v", err)
			}
		})
	}
}

func TestBrokerServesArchives(t *testing.T) {
	s := newSources(t)
	image := newImage(t, "amd64", 2, 1000)
	writeLayout(t, filepath.Join(s.Dir, "layout"), map[string]any{"app:1": newIndex(t, map[string]v1.Image{"amd64": image})})
	locked := mustResolve(t, s, recipes.ImageSource{Layout: "layout"})
	b := serve(t, s, locked)
	parts, err := readParts(s.Cache, locked[0])
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range parts.layers {
		if s.Cache.Has(d.Digest) {
			t.Errorf("layer %s was copied before anyone asked", d.Digest)
		}
		if _, _, body, err := ask(t, b, "GET", "/v2/library/app/blobs/"+d.Digest.String()+"?ns=docker.io", nil); err != nil || digest.FromBytes(body) != d.Digest {
			t.Errorf("%s: %v", d.Digest, err)
		}
	}
}

func TestBrokerCleansUp(t *testing.T) {
	s := newSources(t)
	for name, end := range map[string]func(*Broker, context.CancelFunc){
		"close":   func(b *Broker, _ context.CancelFunc) { _ = b.Close() },
		"context": func(b *Broker, cancel context.CancelFunc) { cancel(); b.served.Wait() },
	} {
		t.Run(name, func(t *testing.T) {
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			b, err := Serve(ctx, s, nil)
			if err != nil {
				t.Fatal(err)
			}
			dir := filepath.Dir(b.Socket())
			info, err := os.Stat(dir)
			if err != nil {
				t.Fatal(err)
			}
			if info.Mode().Perm() != 0o700 {
				t.Errorf("others may enter the socket's folder: %v", info.Mode())
			}
			end(b, cancel)
			if _, err := os.Stat(dir); !errors.Is(err, os.ErrNotExist) {
				t.Errorf("the socket's folder is still there: %v", err)
			}
		})
	}
}
