package preload

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/opencontainers/go-digest"

	"github.com/nodeimg/nodeimg/recipes"
)

func TestResolveKeepsManifestsByteForByte(t *testing.T) {
	oci, arm := newOCIImage(t, "amd64", 2, 500), newOCIImage(t, "arm64", 1, 500)
	docker := newImage(t, "amd64", 2, 500)
	index := newIndex(t, map[string]v1.Image{"arm64": arm, "amd64": oci})
	for _, test := range []struct {
		name             string
		what             remote.Taggable
		image            v1.Image
		target, manifest string
	}{
		{"docker schema 2", docker, docker, "application/vnd.docker.distribution.manifest.v2+json", "application/vnd.docker.distribution.manifest.v2+json"},
		{"OCI manifest", oci, oci, "application/vnd.oci.image.manifest.v1+json", "application/vnd.oci.image.manifest.v1+json"},
		{"OCI index", index, oci, "application/vnd.oci.image.index.v1+json", "application/vnd.oci.image.manifest.v1+json"},
	} {
		t.Run(test.name, func(t *testing.T) {
			p, s := startRegistry(t), newSources(t)
			reference := p.push(t, "a/b:1", test.what)
			locked := mustResolve(t, s, recipes.ImageSource{Registry: reference})
			if len(locked) != 1 {
				t.Fatalf("%d images", len(locked))
			}
			image, target, manifest := locked[0], rawManifest(t, test.what), rawManifest(t, test.image)
			want := recipes.LockedImage{
				Reference: reference, MediaType: test.target, Digest: digest.FromBytes(target).String(), Size: int64(len(target)),
				Manifest: digest.FromBytes(manifest).String(), Platform: platform, Bytes: transferred(t, test.image), Role: recipes.RoleUser,
				Source: recipes.ImageSource{Registry: reference},
			}
			if image != want {
				t.Errorf("got %+v\nwant %+v", image, want)
			}
			if n := len(p.counts("/blobs/")); n != 1 {
				t.Errorf("resolving fetched %d blobs, not only the config", n)
			}
			for _, b := range [][]byte{target, manifest} {
				if got, err := readSmall(s.Cache, digest.FromBytes(b)); err != nil || !bytes.Equal(got, b) {
					t.Errorf("a manifest was rewritten: %v", err)
				}
			}
			mustFetch(t, s, locked)
			layers, err := test.image.Layers()
			if err != nil {
				t.Fatal(err)
			}
			for _, layer := range layers {
				d, err := layer.Digest()
				if err != nil {
					t.Fatal(err)
				}
				checkBlob(t, s.Cache, digest.Digest(d.String()))
			}
			p.forget()
			mustFetch(t, s, locked)
			if again := p.counts("/"); len(again) != 0 {
				t.Errorf("fetching again asked for %v", again)
			}
		})
	}
}

// transferred is the size of manifest, config and layers.
func transferred(t *testing.T, image v1.Image) int64 {
	t.Helper()
	manifest, err := image.Manifest()
	if err != nil {
		t.Fatal(err)
	}
	sum := int64(len(rawManifest(t, image))) + manifest.Config.Size
	for _, layer := range manifest.Layers {
		sum += layer.Size
	}
	return sum
}

func TestResolveNames(t *testing.T) {
	p, s := startRegistry(t), newSources(t)
	s.Mirrors = map[string]string{"docker.io": "http://" + p.host + "/hub/", "registry.k8s.io": "http://" + p.host}
	image := newImage(t, "amd64", 1, 10)
	d := digest.FromBytes(rawManifest(t, image)).String()
	p.push(t, "hub/library/nginx:1.29", image)
	p.push(t, "hub/library/nginx:latest", image)
	p.push(t, "pause:3.10", image)
	for raw, want := range map[string]string{
		"nginx":                           "docker.io/library/nginx:latest",
		"nginx:1.29":                      "docker.io/library/nginx:1.29",
		"docker.io/library/nginx:1.29":    "docker.io/library/nginx:1.29",
		"nginx@" + d:                      "docker.io/library/nginx",
		"nginx:anything@" + d:             "docker.io/library/nginx:anything",
		"registry.k8s.io/pause:3.10":      "registry.k8s.io/pause:3.10",
		"registry.k8s.io/pause:3.10@" + d: "registry.k8s.io/pause:3.10",
	} {
		if got := mustResolve(t, s, recipes.ImageSource{Registry: raw}); got[0].Reference != want && got[0].Reference != want+"@"+d || got[0].Digest != d {
			t.Errorf("%s became %s (%s), want %s", raw, got[0].Reference, got[0].Digest, want)
		}
	}
}

func TestRegistryRefuses(t *testing.T) {
	for _, test := range []struct {
		status int
		input  bool
		says   string
	}{
		{http.StatusUnauthorized, false, "docker login"},
		{http.StatusForbidden, false, "refuses access"},
		{http.StatusNotFound, true, "has no such image"},
		{http.StatusTooManyRequests, false, "limits requests"},
		{http.StatusInternalServerError, false, "run again later"},
		{http.StatusServiceUnavailable, false, "run again later"},
	} {
		t.Run(http.StatusText(test.status), func(t *testing.T) {
			p, s := startRegistry(t), newSources(t)
			src := recipes.ImageSource{Registry: p.push(t, "a/b:1", newImage(t, "amd64", 1, 10))}
			p.set(func(w http.ResponseWriter, r *http.Request, _ http.Handler) bool {
				if strings.Contains(r.URL.Path, "/manifests/") {
					w.WriteHeader(test.status)
					return true
				}
				return false
			})
			_, err := s.Resolve(t.Context(), src, platform, recipes.RoleUser)
			if err == nil || !strings.Contains(err.Error(), test.says) || !strings.Contains(err.Error(), src.Registry) {
				t.Errorf("error is %v, want %q and the reference in it", err, test.says)
			}
			var input *recipes.InputError
			if errors.As(err, &input) != test.input {
				t.Errorf("error %v counts as bad input: %v", err, !test.input)
			}
			p.set(nil)
			mustFetch(t, s, mustResolve(t, s, src))
		})
	}
}

func TestRegistryRecovers(t *testing.T) {
	p, s := startRegistry(t), newSources(t)
	src := recipes.ImageSource{Registry: p.push(t, "a/b:1", newImage(t, "amd64", 2, 1000))}
	failed := map[string]bool{}
	p.set(func(w http.ResponseWriter, r *http.Request, _ http.Handler) bool {
		p.mu.Lock()
		defer p.mu.Unlock()
		if !failed[r.URL.Path] {
			failed[r.URL.Path] = true
			w.WriteHeader([]int{http.StatusTooManyRequests, http.StatusBadGateway}[len(failed)%2])
			return true
		}
		return false
	})
	mustFetch(t, s, mustResolve(t, s, src))
	if len(failed) < 5 {
		t.Errorf("only %v failed once", failed)
	}
}

func TestCutBlobIsResumed(t *testing.T) {
	for name, test := range map[string]struct {
		// openRanges says whether the registry understands "bytes=N-"; go-containerregistry's own wants an end.
		openRanges bool
		ranges     []string
	}{
		"registry with ranges":    {true, []string{"bytes=30000-", "bytes=60000-"}},
		"registry without ranges": {false, []string{"bytes=30000-"}},
	} {
		t.Run(name, func(t *testing.T) {
			p, s := startRegistry(t), newSources(t)
			locked := mustResolve(t, s, recipes.ImageSource{Registry: p.push(t, "a/b:1", newImage(t, "amd64", 1, 100_000))})
			parts, err := readParts(s.Cache, locked[0])
			if err != nil {
				t.Fatal(err)
			}
			layer := parts.layers[0]
			cut := 0
			p.set(func(w http.ResponseWriter, r *http.Request, next http.Handler) bool {
				if !strings.Contains(r.URL.Path, layer.Digest.String()) {
					return false
				}
				if header := r.Header.Get("Range"); header != "" && test.openRanges {
					r.Header.Set("Range", fmt.Sprint(header, layer.Size-1))
				}
				p.mu.Lock()
				defer p.mu.Unlock()
				if cut++; cut > 2 {
					return false
				}
				next.ServeHTTP(&cutWriter{ResponseWriter: w, left: 30_000}, r)
				if r.Header.Get("Range") != "" && !test.openRanges {
					return true
				}
				panic(http.ErrAbortHandler)
			})
			mustFetch(t, s, locked)
			checkBlob(t, s.Cache, layer.Digest)
			if !slices.Equal(p.ranges, test.ranges) {
				t.Errorf("resumed at %v, want %v", p.ranges, test.ranges)
			}
		})
	}
}

// cutWriter lets only so many bytes of a body through.
type cutWriter struct {
	http.ResponseWriter
	left int
}

func (w *cutWriter) Write(b []byte) (int, error) {
	n := min(w.left, len(b))
	w.left -= n
	_, err := w.ResponseWriter.Write(b[:n])
	_ = http.NewResponseController(w.ResponseWriter).Flush()
	return len(b), err
}

func TestLyingRegistry(t *testing.T) {
	for _, part := range []string{"/blobs/", "/manifests/sha256:"} {
		t.Run(part, func(t *testing.T) {
			p, s := startRegistry(t), newSources(t)
			index := newIndex(t, map[string]v1.Image{"amd64": newOCIImage(t, "amd64", 1, 1000)})
			src := recipes.ImageSource{Registry: p.push(t, "a/b:1", index)}
			p.set(func(w http.ResponseWriter, r *http.Request, _ http.Handler) bool {
				if !strings.Contains(r.URL.Path, part) {
					return false
				}
				fmt.Fprint(w, `{"schemaVersion":2}`)
				return true
			})
			_, err := s.Resolve(t.Context(), src, platform, recipes.RoleUser)
			if err == nil || !strings.Contains(err.Error(), "sha256:") {
				t.Fatalf("a registry that lies gave %v", err)
			}
			p.set(nil)
			locked := mustResolve(t, s, src)
			mustFetch(t, s, locked)
			entries, err := os.ReadDir(filepath.Join(s.Cache.Root(), "blobs", "sha256"))
			if err != nil {
				t.Fatal(err)
			}
			for _, entry := range entries {
				checkBlob(t, s.Cache, digest.NewDigestFromEncoded(digest.SHA256, entry.Name()))
			}
		})
	}
}

func TestPrivateRegistry(t *testing.T) {
	p, s := startRegistry(t), newSources(t)
	src := recipes.ImageSource{Registry: p.push(t, "a/b:1", newImage(t, "amd64", 1, 1000))}
	p.set(func(w http.ResponseWriter, r *http.Request, _ http.Handler) bool {
		if user, password, ok := r.BasicAuth(); ok && user == "ann" && password == "secret" {
			return false
		}
		w.Header().Set("WWW-Authenticate", `Basic realm="private"`)
		w.WriteHeader(http.StatusUnauthorized)
		return true
	})
	if _, err := s.Resolve(t.Context(), src, platform, recipes.RoleUser); err == nil || !strings.Contains(err.Error(), "docker login "+p.host) {
		t.Errorf("without credentials the error is %v", err)
	}
	auth := base64.StdEncoding.EncodeToString([]byte("ann:secret"))
	writeFile(t, filepath.Join(os.Getenv("DOCKER_CONFIG"), "config.json"), fmt.Appendf(nil, `{"auths":{%q:{"auth":%q}}}`, p.host, auth))
	again := &Sources{Cache: s.Cache, RetryWait: s.RetryWait}
	mustFetch(t, again, mustResolve(t, again, src))
}

// TestTokenRegistry has a registry as Docker Hub is: it hands out tokens for a scope, and they expire while it is in use.
func TestTokenRegistry(t *testing.T) {
	p, s := startRegistry(t), newSources(t)
	src := recipes.ImageSource{Registry: p.push(t, "a/b:1", newImage(t, "amd64", 3, 1000))}
	var scopes []string
	// Tokens up to this number have expired.
	expired := 0
	p.set(func(w http.ResponseWriter, r *http.Request, _ http.Handler) bool {
		p.mu.Lock()
		defer p.mu.Unlock()
		if r.URL.Path == "/token" {
			scopes = append(scopes, r.URL.Query().Get("scope"))
			fmt.Fprintf(w, `{"token":"token-%d"}`, len(scopes))
			return true
		}
		var token int
		if _, err := fmt.Sscanf(r.Header.Get("Authorization"), "Bearer token-%d", &token); err == nil && token > expired {
			return false
		}
		w.Header().Set("WWW-Authenticate", fmt.Sprintf(`Bearer realm="http://%s/token",service="test",scope="repository:a/b:pull"`, p.host))
		w.WriteHeader(http.StatusUnauthorized)
		return true
	})
	locked := mustResolve(t, s, src)
	p.mu.Lock()
	expired = len(scopes)
	p.mu.Unlock()
	mustFetch(t, s, locked)
	if len(scopes) < 2 {
		t.Errorf("only %d tokens were asked for", len(scopes))
	}
	for _, scope := range scopes {
		if scope != "repository:a/b:pull" {
			t.Errorf("a token was asked for %q", scope)
		}
	}
}

// TestStaticMirror has a mirror that is a plain file server and so knows no media types.
func TestStaticMirror(t *testing.T) {
	p, s := startRegistry(t), newSources(t)
	index := newIndex(t, map[string]v1.Image{"amd64": newOCIImage(t, "amd64", 1, 1000)})
	p.push(t, "k8s/pause:3.10", index)
	p.set(func(w http.ResponseWriter, r *http.Request, next http.Handler) bool {
		next.ServeHTTP(plainText{w}, r)
		return true
	})
	s.Mirrors = map[string]string{"registry.k8s.io": "http://" + p.host + "/k8s"}
	locked := mustResolve(t, s, recipes.ImageSource{Registry: "registry.k8s.io/pause:3.10"})
	mustFetch(t, s, locked)
	if locked[0].MediaType != "application/vnd.oci.image.index.v1+json" || locked[0].Reference != "registry.k8s.io/pause:3.10" {
		t.Errorf("got %+v", locked[0])
	}
}

type plainText struct{ http.ResponseWriter }

func (w plainText) WriteHeader(status int) {
	w.Header().Set("Content-Type", "text/plain")
	w.Header().Del("Docker-Content-Digest")
	w.ResponseWriter.WriteHeader(status)
}

// TestInterruptedFetchIsResumed ends a fetch as Ctrl-C does and lets another process, as it were, go on.
func TestInterruptedFetchIsResumed(t *testing.T) {
	p, s := startRegistry(t), newSources(t)
	locked := mustResolve(t, s, recipes.ImageSource{Registry: p.push(t, "a/b:1", newImage(t, "amd64", 1, 100_000))})
	parts, err := readParts(s.Cache, locked[0])
	if err != nil {
		t.Fatal(err)
	}
	layer := parts.layers[0]
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	p.set(func(w http.ResponseWriter, r *http.Request, next http.Handler) bool {
		next.ServeHTTP(&cutWriter{ResponseWriter: w, left: 30_000}, r)
		for {
			// The bytes must have arrived, or there would be nothing to resume.
			if info, err := os.Stat(s.Cache.PartialPath(layer.Digest)); err == nil && info.Size() == 30_000 {
				break
			}
			time.Sleep(time.Millisecond)
		}
		cancel()
		<-r.Context().Done()
		return true
	})
	if err := s.Fetch(ctx, locked[0]); !errors.Is(err, context.Canceled) {
		t.Fatalf("the error is %v", err)
	}
	p.set(func(_ http.ResponseWriter, r *http.Request, _ http.Handler) bool {
		if header := r.Header.Get("Range"); header != "" {
			r.Header.Set("Range", fmt.Sprint(header, layer.Size-1))
		}
		return false
	})
	mustFetch(t, &Sources{Cache: s.Cache}, locked)
	checkBlob(t, s.Cache, layer.Digest)
	if !slices.Equal(p.ranges, []string{"bytes=30000-"}) {
		t.Errorf("resumed at %v", p.ranges)
	}
}

func TestNoImageForThePlatform(t *testing.T) {
	p, s := startRegistry(t), newSources(t)
	arm := newOCIImage(t, "arm64", 1, 10)
	for name, src := range map[string]string{
		"linux/arm64": p.push(t, "a/index:1", newIndex(t, map[string]v1.Image{"arm64": arm})),
		"arm64":       p.push(t, "a/image:1", arm),
	} {
		_, err := s.Resolve(t.Context(), recipes.ImageSource{Registry: src}, platform, recipes.RoleUser)
		var input *recipes.InputError
		if !errors.As(err, &input) || !strings.Contains(err.Error(), name) || !strings.Contains(err.Error(), platform) {
			t.Errorf("%s: the error is %v", src, err)
		}
	}
}

func TestUnreachableRegistry(t *testing.T) {
	s := newSources(t)
	_, err := s.Resolve(t.Context(), recipes.ImageSource{Registry: "127.0.0.1:1/a/b:1"}, platform, recipes.RoleUser)
	if err == nil || !strings.Contains(err.Error(), "127.0.0.1:1") || !strings.Contains(err.Error(), "mirrors") {
		t.Errorf("the error is %v", err)
	}
}

func TestBadReference(t *testing.T) {
	s := newSources(t)
	for _, raw := range []string{"UPPER/case", "a b", "x@sha256:123"} {
		_, err := s.Resolve(t.Context(), recipes.ImageSource{Registry: raw}, platform, recipes.RoleUser)
		var input *recipes.InputError
		if !errors.As(err, &input) || !strings.Contains(err.Error(), raw) {
			t.Errorf("%q gives %v", raw, err)
		}
	}
}

func TestLostCacheIsRefilledFromTheLock(t *testing.T) {
	p, s := startRegistry(t), newSources(t)
	image := newOCIImage(t, "amd64", 2, 500)
	locked := mustResolve(t, s, recipes.ImageSource{Registry: p.push(t, "a/b:1", newIndex(t, map[string]v1.Image{"amd64": image}))})
	// The tag moves on; the lock does not.
	p.push(t, "a/b:1", newImage(t, "amd64", 1, 10))
	empty := &Sources{Cache: newCache(t), RetryWait: s.RetryWait}
	mustFetch(t, empty, locked)
	parts, err := readParts(empty.Cache, locked[0])
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range parts.all() {
		checkBlob(t, empty.Cache, d.Digest)
	}
}
