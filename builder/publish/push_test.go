package publish

import (
	"context"
	"errors"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/validate"
)

var fastBackoff = remote.Backoff{Duration: time.Millisecond, Factor: 1, Steps: 4}

// perRepository keeps blobs apart by repository, as registries do and the in-memory one of the library does not.
type perRepository struct {
	mu           sync.Mutex
	repositories map[string]registry.BlobHandler
}

func (p *perRepository) of(repository string) registry.BlobHandler {
	// For uploads the library passes the path on to the upload's id.
	repository, _, _ = strings.Cut(repository, "/blobs")
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.repositories[repository] == nil {
		p.repositories[repository] = registry.NewInMemoryBlobHandler()
	}
	return p.repositories[repository]
}

func (p *perRepository) Get(ctx context.Context, repository string, h v1.Hash) (io.ReadCloser, error) {
	return p.of(repository).Get(ctx, repository, h)
}

func (p *perRepository) Stat(ctx context.Context, repository string, h v1.Hash) (int64, error) {
	return p.of(repository).(registry.BlobStatHandler).Stat(ctx, repository, h)
}

func (p *perRepository) Put(ctx context.Context, repository string, h v1.Hash, r io.ReadCloser) error {
	return p.of(repository).(registry.BlobPutHandler).Put(ctx, repository, h, r)
}

// testRegistry is a real registry with a door in front: every request passes the doors in their order until one answers it.
type testRegistry struct {
	host  string
	blobs *perRepository

	mu       sync.Mutex
	requests []string
}

type door func(w http.ResponseWriter, r *http.Request) (answered bool)

func startRegistry(t *testing.T, doors ...door) *testRegistry {
	t.Helper()
	found := &testRegistry{blobs: &perRepository{repositories: map[string]registry.BlobHandler{}}}
	inner := registry.New(registry.WithBlobHandler(found.blobs), registry.Logger(log.New(io.Discard, "", 0)))
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		found.mu.Lock()
		found.requests = append(found.requests, r.Method+" "+r.URL.RequestURI())
		found.mu.Unlock()
		for _, d := range doors {
			if d(w, r) {
				return
			}
		}
		inner.ServeHTTP(w, r)
	}))
	t.Cleanup(server.Close)
	found.host = strings.TrimPrefix(server.URL, "http://")
	return found
}

// count counts the requests that begin with method and contain all parts.
func (r *testRegistry) count(method string, parts ...string) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	var n int
	for _, request := range r.requests {
		if strings.HasPrefix(request, method+" ") && !slices.ContainsFunc(parts, func(p string) bool { return !strings.Contains(request, p) }) {
			n++
		}
	}
	return n
}

func (r *testRegistry) forget() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.requests = nil
}

func pull(t *testing.T, ref string, options ...remote.Option) v1.Image {
	t.Helper()
	parsed, err := name.ParseReference(ref)
	if err != nil {
		t.Fatal(err)
	}
	img, err := remote.Image(parsed, options...)
	if err != nil {
		t.Fatal(err)
	}
	return img
}

func TestPush(t *testing.T) {
	r := startRegistry(t)
	img := randomImage(t)
	o := PushOptions{References: []string{r.host + "/k8s/node:v1", r.host + "/k8s/node:latest"}, Keychain: authn.NewMultiKeychain()}
	screen, ctx := newScreen(t.Context())
	got, err := Push(ctx, img, o)
	if err != nil {
		t.Fatal(err)
	}
	if want := []string{r.host + "/k8s/node@" + digestOf(t, img).String()}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	screen.complete(t)
	for _, ref := range append(got, o.References...) {
		if err := validate.Image(pull(t, ref)); err != nil {
			t.Errorf("%s: %v", ref, err)
		}
	}
	if n := r.count("PATCH", "/blobs/uploads/"); n != 4 {
		t.Errorf("%d blobs were uploaded for two tags, want 4", n)
	}

	r.forget()
	o.References = []string{r.host + "/k8s/node:other"}
	screen, ctx = newScreen(t.Context())
	if _, err := Push(ctx, img, o); err != nil {
		t.Fatal(err)
	}
	if n := r.count("POST"); n != 0 {
		t.Errorf("%d uploads were begun for blobs that are there", n)
	}
	if !strings.Contains(screen.String(), "3 of 3 layers") {
		t.Errorf("the screen does not say what was skipped:\n%s", screen)
	}
	screen.complete(t)
}

func TestPushBuiltImage(t *testing.T) {
	r := startRegistry(t)
	img, err := Recompress(t.Context(), openCache(t), writeBuilt(t, builtImage(t)), nil, keepStore)
	if err != nil {
		t.Fatal(err)
	}
	got, err := Push(t.Context(), img, PushOptions{References: []string{r.host + "/node"}})
	if err != nil {
		t.Fatal(err)
	}
	checkImage(t, pull(t, got[0]))
}

// mounting lets a registry mount across repositories (OCI distribution spec, "Mounting a blob from another repository").
func mounting(blobs func() *perRepository) door {
	return func(w http.ResponseWriter, r *http.Request) bool {
		mount, from := r.URL.Query().Get("mount"), r.URL.Query().Get("from")
		if r.Method != http.MethodPost || mount == "" {
			return false
		}
		hash, err := v1.NewHash(mount)
		if err != nil {
			return false
		}
		to := strings.TrimSuffix(strings.TrimPrefix(r.URL.Path, "/v2/"), "/blobs/uploads/")
		content, err := blobs().Get(r.Context(), from, hash)
		if err != nil || blobs().Put(r.Context(), to, hash, content) != nil {
			return false
		}
		w.Header().Set("Location", "/v2/"+to+"/blobs/"+mount)
		w.WriteHeader(http.StatusCreated)
		return true
	}
}

func TestPushMounts(t *testing.T) {
	var r *testRegistry
	r = startRegistry(t, mounting(func() *perRepository { return r.blobs }))
	img := randomImage(t)
	layers, err := img.Layers()
	if err != nil {
		t.Fatal(err)
	}
	first, err := layers[0].Digest()
	if err != nil {
		t.Fatal(err)
	}
	content, err := layers[0].Compressed()
	if err != nil {
		t.Fatal(err)
	}
	if err := r.blobs.Put(t.Context(), "base/debian", first, content); err != nil {
		t.Fatal(err)
	}
	got, err := Push(t.Context(), img, PushOptions{
		References: []string{r.host + "/a/node:v1", r.host + "/b/node:v1"},
		Mounts:     map[v1.Hash]string{first: r.host + "/base/debian"},
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(got) != 2 {
		t.Fatalf("got %q, want two references", got)
	}
	for _, ref := range got {
		if err := validate.Image(pull(t, ref)); err != nil {
			t.Errorf("%s: %v", ref, err)
		}
	}
	if n := r.count("POST", "/a/node/", "mount="+url.QueryEscape(first.String()), "from="+url.QueryEscape("base/debian")); n != 1 {
		t.Errorf("the base's layer was mounted %d times, want once", n)
	}
	if n := r.count("PATCH"); n != 3+1 { // two layers and the config to the first repository, the config to the second one
		t.Errorf("%d blobs were uploaded, want 4", n)
	}
}

func TestPushWithoutMountSupport(t *testing.T) {
	r := startRegistry(t)
	got, err := Push(t.Context(), randomImage(t), PushOptions{References: []string{r.host + "/a/node:v1", r.host + "/b/node:v1"}})
	if err != nil {
		t.Fatal(err)
	}
	for _, ref := range got {
		if err := validate.Image(pull(t, ref)); err != nil {
			t.Errorf("%s: %v", ref, err)
		}
	}
}

// basicAuth lets in who knows the password.
func basicAuth(user, password string) door {
	return func(w http.ResponseWriter, r *http.Request) bool {
		if u, p, ok := r.BasicAuth(); ok && u == user && p == password {
			return false
		}
		w.Header().Set("WWW-Authenticate", `Basic realm="test"`)
		http.Error(w, `{"errors":[{"code":"UNAUTHORIZED","message":"authentication required"}]}`, http.StatusUnauthorized)
		return true
	}
}

type fixedKeychain authn.AuthConfig

func (k fixedKeychain) Resolve(authn.Resource) (authn.Authenticator, error) {
	return authn.FromConfig(authn.AuthConfig(k)), nil
}

func TestPushWithCredentials(t *testing.T) {
	r := startRegistry(t, basicAuth("anna", "s3cret"))
	good := fixedKeychain{Username: "anna", Password: "s3cret"}
	o := PushOptions{References: []string{r.host + "/node:v1"}, Keychain: good, Backoff: fastBackoff}
	got, err := Push(t.Context(), randomImage(t), o)
	if err != nil {
		t.Fatal(err)
	}
	if err := validate.Image(pull(t, got[0], remote.WithAuthFromKeychain(good))); err != nil {
		t.Fatal(err)
	}
	o.Keychain = fixedKeychain{Username: "anna", Password: "wr0ng"}
	_, err = Push(t.Context(), randomImage(t), o)
	wantPushError(t, err, http.StatusUnauthorized, "docker login "+r.host)
	if strings.Contains(err.Error(), "wr0ng") {
		t.Errorf("the password is in the error: %v", err)
	}
}

func wantPushError(t *testing.T, err error, code int, advice string) {
	t.Helper()
	var failed *PushError
	if !errors.As(err, &failed) || failed.Code != code || !strings.Contains(err.Error(), advice) || !strings.HasPrefix(err.Error(), "pushing ") {
		t.Fatalf("want a push error with status %d and %q, got %v", code, advice, err)
	}
}

// answering answers requests with that method and path with a status, at most n times.
func answering(method, path string, status, n int) door {
	var given atomic.Int64
	return func(w http.ResponseWriter, r *http.Request) bool {
		if r.Method != method || !strings.Contains(r.URL.Path, path) || given.Add(1) > int64(n) {
			return false
		}
		w.WriteHeader(status)
		return true
	}
}

// cutting breaks the connection in the middle of the first n uploads.
func cutting(n int) door {
	var given atomic.Int64
	return func(_ http.ResponseWriter, r *http.Request) bool {
		if r.Method != http.MethodPatch || given.Add(1) > int64(n) {
			return false
		}
		_, _ = io.CopyN(io.Discard, r.Body, 1000)
		panic(http.ErrAbortHandler)
	}
}

func TestPushRetries(t *testing.T) {
	for _, test := range []struct {
		name string
		door door
		says string
	}{
		{"429", answering(http.MethodPost, "/blobs/uploads/", http.StatusTooManyRequests, 2), "429"},
		{"500", answering(http.MethodPatch, "/blobs/uploads/", http.StatusInternalServerError, 2), "500"},
		{"502 for the manifest", answering(http.MethodPut, "/manifests/", http.StatusBadGateway, 2), "502"},
		{"cut upload", cutting(2), "/blobs/uploads/"},
	} {
		t.Run(test.name, func(t *testing.T) {
			r := startRegistry(t, test.door)
			screen, ctx := newScreen(t.Context())
			got, err := Push(ctx, randomImage(t), PushOptions{References: []string{r.host + "/node:v1"}, Backoff: fastBackoff})
			if err != nil {
				t.Fatal(err)
			}
			if err := validate.Image(pull(t, got[0])); err != nil {
				t.Fatal(err)
			}
			if text := screen.String(); !strings.Contains(text, "passing failure") || !strings.Contains(text, test.says) {
				t.Errorf("the screen does not show the retry:\n%s", text)
			}
			screen.complete(t)
		})
	}
}

func TestPushFailures(t *testing.T) {
	const always = 1 << 30
	for _, test := range []struct {
		name   string
		door   door
		code   int
		advice string
	}{
		{"401", answering(http.MethodHead, "", http.StatusUnauthorized, always), http.StatusUnauthorized, "log in"},
		{"403", answering(http.MethodPost, "/blobs/uploads/", http.StatusForbidden, always), http.StatusForbidden, "may not push"},
		{"404", answering(http.MethodPost, "/blobs/uploads/", http.StatusNotFound, always), http.StatusNotFound, "does not know this repository"},
		{"405", answering(http.MethodPost, "/blobs/uploads/", http.StatusMethodNotAllowed, always), http.StatusMethodNotAllowed, "read-only"},
		{"413", answering(http.MethodPatch, "/blobs/uploads/", http.StatusRequestEntityTooLarge, always), http.StatusRequestEntityTooLarge, "size of uploads"},
		{"429", answering(http.MethodPost, "/blobs/uploads/", http.StatusTooManyRequests, always), http.StatusTooManyRequests, "limits requests"},
		{"500", answering(http.MethodPut, "/manifests/", http.StatusInternalServerError, always), http.StatusInternalServerError, "registry fails"},
		{"cut", cutting(always), 0, "pushing "},
	} {
		t.Run(test.name, func(t *testing.T) {
			r := startRegistry(t, test.door)
			ref := r.host + "/node:v1"
			_, err := Push(t.Context(), randomImage(t), PushOptions{References: []string{ref}, Backoff: fastBackoff})
			wantPushError(t, err, test.code, test.advice)
			if !strings.Contains(err.Error(), ref) || strings.Contains(err.Error(), "\n") {
				t.Errorf("want one line that names %s, got %v", ref, err)
			}
			parsed, parseErr := name.ParseReference(ref)
			if parseErr != nil {
				t.Fatal(parseErr)
			}
			if test.name != "401" {
				if _, err := remote.Head(parsed); err == nil {
					t.Error("the tag exists after a failed push")
				}
			}
		})
	}
	t.Run("nobody listens", func(t *testing.T) {
		server := httptest.NewServer(nil)
		host := strings.TrimPrefix(server.URL, "http://")
		server.Close()
		_, err := Push(t.Context(), randomImage(t), PushOptions{References: []string{host + "/node"}, Backoff: fastBackoff})
		wantPushError(t, err, 0, host+" is up")
	})
	t.Run("unknown certificate", func(t *testing.T) {
		server := httptest.NewTLSServer(registry.New())
		defer server.Close()
		server.Config.ErrorLog = log.New(io.Discard, "", 0)
		// A name that is not local, so that plain http is not tried.
		_, err := Push(t.Context(), randomImage(t), PushOptions{
			References: []string{"registry.example.com/node"}, Backoff: fastBackoff, Transport: redirecting(server.Listener.Addr().String()),
		})
		wantPushError(t, err, 0, "not trusted")
	})
}

func TestPushInsecureRegistry(t *testing.T) {
	r := startRegistry(t)
	o := PushOptions{References: []string{"registry.example.com/node:v1"}, Backoff: fastBackoff, Transport: redirecting(r.host)}
	_, err := Push(t.Context(), randomImage(t), o)
	wantPushError(t, err, 0, "--insecure-registry registry.example.com")
	o.InsecureRegistries = []string{"registry.example.com"}
	if _, err := Push(t.Context(), randomImage(t), o); err != nil {
		t.Fatal(err)
	}
}

func TestPushCancel(t *testing.T) {
	stopped := errors.New("stopped by the user")
	ctx, cancel := context.WithCancelCause(t.Context())
	r := startRegistry(t, func(_ http.ResponseWriter, r *http.Request) bool {
		if r.Method == http.MethodPatch {
			cancel(stopped)
			_, _ = io.Copy(io.Discard, r.Body)
			panic(http.ErrAbortHandler)
		}
		return false
	})
	if _, err := Push(ctx, randomImage(t), PushOptions{References: []string{r.host + "/node"}}); !errors.Is(err, stopped) {
		t.Fatalf("want %v, got %v", stopped, err)
	}
}

func TestPushBadNames(t *testing.T) {
	img := randomImage(t)
	for ref, text := range map[string]string{
		"":                                  "image name",
		"UPPER/x":                           "UPPER/x",
		"a b":                               "a b",
		"node@" + digestOf(t, img).String(): "has a digest",
	} {
		_, err := Push(t.Context(), img, PushOptions{References: []string{ref}})
		wantInputError(t, err, text)
	}
	_, err := Push(t.Context(), img, PushOptions{})
	wantInputError(t, err, "-t")
}

func TestDigestReferencesAreWrittenAsUsersDo(t *testing.T) {
	targets, err := PushOptions{References: []string{"node", "docker.io/me/node:v1", "me/node:v2"}}.targets()
	if err != nil {
		t.Fatal(err)
	}
	if len(targets) != 2 || targets[0].name != "docker.io/library/node" || targets[1].name != "docker.io/me/node" || len(targets[1].tags) != 2 {
		t.Errorf("got %+v", targets)
	}
}
