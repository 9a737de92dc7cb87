package cli

import (
	"crypto/rand"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/nodeimg/nodeimg/internal/cache"
	"github.com/nodeimg/nodeimg/recipes"
)

// spoiler answers a request by itself and returns true, or leaves it to the registry.
type spoiler = func(w http.ResponseWriter, r *http.Request, next http.Handler) bool

// otherBytes answers with random bytes whenever a blob is asked for whose digest begins so.
func otherBytes(hex string) spoiler {
	return func(w http.ResponseWriter, r *http.Request, next http.Handler) bool {
		if !strings.Contains(r.URL.Path, "/blobs/sha256:"+hex) || r.Method != http.MethodGet {
			return false
		}
		size := w.Header()
		next.ServeHTTP(headerOnly{size}, r)
		n, _ := strconv.Atoi(size.Get("Content-Length"))
		b := make([]byte, n)
		_, _ = rand.Read(b)
		_, _ = w.Write(b)
		return true
	}
}

// cutShort breaks the connection in the middle of the blob.
func cutShort(hex string) spoiler {
	return func(w http.ResponseWriter, r *http.Request, next http.Handler) bool {
		if !strings.Contains(r.URL.Path, "/blobs/sha256:"+hex) || r.Method != http.MethodGet {
			return false
		}
		next.ServeHTTP(headerOnly{w.Header()}, r)
		w.WriteHeader(http.StatusOK)
		_, _ = w.Write([]byte("the first bytes"))
		_ = http.NewResponseController(w).Flush()
		panic(http.ErrAbortHandler)
	}
}

// headerOnly takes an answer's header and drops the rest.
type headerOnly struct{ header http.Header }

// Header implements http.ResponseWriter.
func (h headerOnly) Header() http.Header { return h.header }

// WriteHeader implements http.ResponseWriter.
func (headerOnly) WriteHeader(int) {}

// Write implements http.ResponseWriter.
func (headerOnly) Write(p []byte) (int, error) { return len(p), nil }

// status answers every request for a manifest with an HTTP status.
func status(code int) spoiler {
	return func(w http.ResponseWriter, r *http.Request, _ http.Handler) bool {
		if !strings.Contains(r.URL.Path, "/manifests/") {
			return false
		}
		w.WriteHeader(code)
		_, _ = fmt.Fprintf(w, `{"errors":[{"code":"TEST","message":"status %d"}]}`, code)
		return true
	}
}

// userCache is the folder of the cache that nodeimg uses here.
func userCache(t *testing.T) string {
	t.Helper()
	if dir := os.Getenv(cache.EnvironmentVariable); dir != "" {
		return dir
	}
	dir, err := os.UserCacheDir()
	if err != nil {
		t.Fatal(err)
	}
	return filepath.Join(dir, "nodeimg")
}

func TestRegistryRefuses(t *testing.T) {
	for _, test := range []struct {
		code, exit int
		words      []string
	}{
		{404, 2, []string{"recipe.yaml:", "spec.preload.images[0]", "404", "check name and tag"}},
		{401, 1, []string{"401", "docker login"}},
		{403, 1, []string{"403", "docker login"}},
		{429, 1, []string{"429", "wait"}},
		{500, 1, []string{"500", "run again later"}},
	} {
		t.Run(strconv.Itoa(test.code), func(t *testing.T) {
			t.Parallel()
			w, r := newWorkplace(t), startRegistry(t, "", "")
			r.push(t, "library/app:1", newImage(t, 400))
			r.set(status(test.code))
			w.recipe(func(spec *recipes.Spec) {
				spec.Mirrors["docker.io"] = "http://" + r.host
				spec.Preload.Images = []recipes.ImageSource{{Registry: "app:1"}}
			})
			failed := w.run("build", "recipe.yaml", "--progress", "plain").failed(test.exit, append(test.words, "app:1", r.host)...)
			if n := strings.Count(failed.message(), "\n"); n > 2 {
				t.Errorf("the message has %d lines:\n%s", n, failed.message())
			}
			if got := w.entries("."); len(got) != 1 {
				t.Errorf("it left %q", got)
			}
		})
	}
	t.Run("no credentials", func(t *testing.T) {
		t.Parallel()
		w, r := newWorkplace(t), startRegistry(t, "robot", "secret")
		w.recipe(func(spec *recipes.Spec) {
			spec.Preload.Images = []recipes.ImageSource{{Registry: r.host + "/app:1"}}
		})
		w.run("build", "recipe.yaml", "--progress", "plain").failed(1, r.host+"/app:1", "docker login "+r.host)
	})
	t.Run("nobody listens", func(t *testing.T) {
		t.Parallel()
		r, closeServer := newRegistry("", "")
		closeServer()
		w := newWorkplace(t)
		w.recipe(func(spec *recipes.Spec) {
			spec.Preload.Images = []recipes.ImageSource{{Registry: r.host + "/app:1"}}
		})
		w.run("build", "recipe.yaml", "--progress", "plain").failed(1, r.host+"/app:1", "connection refused", "check the network")
	})
}
