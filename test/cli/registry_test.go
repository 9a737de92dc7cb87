package cli

import (
	"encoding/base64"
	"fmt"
	"io"
	"log"
	"math/rand"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/nodeimg/nodeimg/recipes"
)

// registryServer is a real registry on a loopback port. It counts what it is asked, may want a password, and lets a test spoil answers.
type registryServer struct {
	// host is 127.0.0.1:PORT.
	host           string
	user, password string
	next           http.Handler

	mu       sync.Mutex
	requests []string
	// spoil answers by itself and returns true, or leaves the request to the registry.
	spoil func(w http.ResponseWriter, r *http.Request, next http.Handler) bool
}

// newRegistry starts a registry; the caller closes it. Without a user everybody may do everything.
func newRegistry(user, password string) (r *registryServer, closeServer func()) {
	r = &registryServer{user: user, password: password, next: registry.New(registry.Logger(log.New(io.Discard, "", 0)))}
	server := httptest.NewServer(r)
	r.host = strings.TrimPrefix(server.URL, "http://")
	return r, server.Close
}

func startRegistry(t testing.TB, user, password string) *registryServer {
	t.Helper()
	r, closeServer := newRegistry(user, password)
	t.Cleanup(closeServer)
	return r
}

// ServeHTTP implements http.Handler.
func (r *registryServer) ServeHTTP(w http.ResponseWriter, request *http.Request) {
	r.mu.Lock()
	r.requests = append(r.requests, request.Method+" "+request.URL.Path)
	spoil := r.spoil
	r.mu.Unlock()
	if user, password, _ := request.BasicAuth(); user != r.user || password != r.password {
		w.Header().Set("WWW-Authenticate", `Basic realm="test"`)
		http.Error(w, `{"errors":[{"code":"UNAUTHORIZED","message":"log in"}]}`, http.StatusUnauthorized)
		return
	}
	if spoil == nil || !spoil(w, request, r.next) {
		r.next.ServeHTTP(w, request)
	}
}

// set changes how answers are spoilt; nil heals.
func (r *registryServer) set(spoil func(http.ResponseWriter, *http.Request, http.Handler) bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.spoil = spoil
}

// asked returns the requests since the last call whose "METHOD PATH" contains part.
func (r *registryServer) asked(part string) []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	var found []string
	for _, request := range r.requests {
		if strings.Contains(request, part) {
			found = append(found, request)
		}
	}
	r.requests = nil
	return found
}

// options are what a client of this registry needs.
func (r *registryServer) options(t testing.TB) []remote.Option {
	options := []remote.Option{remote.WithContext(t.Context())}
	if r.user != "" {
		options = append(options, remote.WithAuth(&authn.Basic{Username: r.user, Password: r.password}))
	}
	return options
}

// push puts an image into the registry as path, for instance library/app:1.
func (r *registryServer) push(t testing.TB, path string, image v1.Image) {
	t.Helper()
	ref, err := name.ParseReference(r.host + "/" + path)
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.Write(ref, image, r.options(t)...); err != nil {
		t.Fatal(err)
	}
}

// pull reads an image, as path or as a full reference.
func (r *registryServer) pull(t testing.TB, path string) v1.Image {
	t.Helper()
	ref, err := name.ParseReference(r.host + "/" + strings.TrimPrefix(path, r.host+"/"))
	if err != nil {
		t.Fatal(err)
	}
	image, err := remote.Image(ref, r.options(t)...)
	if err != nil {
		t.Fatal(err)
	}
	return image
}

// dockerConfig makes nodeimg in w find the credentials of the registries where "docker login" leaves them.
func (w *workplace) dockerConfig(registries ...*registryServer) {
	w.t.Helper()
	var entries []string
	for _, r := range registries {
		entries = append(entries, fmt.Sprintf("%q: {\"auth\": %q}", r.host, r.auth()))
	}
	w.write("docker/config.json", "{\"auths\": {"+strings.Join(entries, ", ")+"}}")
	w.env = append(w.env, "DOCKER_CONFIG="+w.path("docker"))
}

// auth is user and password as docker's configuration and http headers hold them.
func (r *registryServer) auth() string {
	return base64.StdEncoding.EncodeToString([]byte(r.user + ":" + r.password))
}

// newImage makes an image for linux/amd64 with two layers that no cache knows; the same number gives the same image in one run of the
// tests.
func newImage(t testing.TB, number int64) v1.Image {
	t.Helper()
	image, err := randomImage(seed + number)
	if err != nil {
		t.Fatal(err)
	}
	return image
}

// randomImage is newImage's, by a number that means the same in every run.
func randomImage(number int64) (v1.Image, error) {
	image, err := random.Image(20_000, 2, random.WithSource(rand.NewSource(number)))
	if err != nil {
		return nil, err
	}
	config, err := image.ConfigFile()
	if err != nil {
		return nil, err
	}
	config = config.DeepCopy()
	config.OS, config.Architecture = "linux", "amd64"
	// random.Image dates images now, which would make every call another image.
	config.Created = v1.Time{}
	for i := range config.History {
		config.History[i].Created = v1.Time{}
	}
	if image, err = mutate.ConfigFile(image, config); err != nil {
		return nil, err
	}
	return mutate.ConfigMediaType(mutate.MediaType(image, types.OCIManifestSchema1), types.OCIConfigJSON), nil
}

// hub stands for docker.io for the recipes of standard, in all tests.
var hub = sync.OnceValue(func() *registryServer {
	r, _ := newRegistry("", "")
	return r
})

// standard writes a recipe with one image that is the same in all tests, so that only the first of them has to build it.
func (w *workplace) standard(changes ...func(*recipes.Spec)) {
	w.t.Helper()
	hub().push(w.t, "library/standard:1", newImage(w.t, 0))
	w.recipe(append(changes, func(spec *recipes.Spec) {
		spec.Mirrors["docker.io"] = "http://" + hub().host
		spec.Preload.Images = []recipes.ImageSource{{Registry: "standard:1"}}
	})...)
}
