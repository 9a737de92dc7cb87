package preload

import (
	"bytes"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	"github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/opencontainers/go-digest"

	"github.com/nodeimg/nodeimg/internal/cache"
	"github.com/nodeimg/nodeimg/recipes"
)

const platform = "linux/amd64"

// proxy stands before a real registry, counts requests and lets a test spoil answers.
type proxy struct {
	// host is 127.0.0.1:PORT.
	host string
	next http.Handler

	mu sync.Mutex
	// seen counts GET requests by path.
	seen map[string]int
	// ranges are the Range headers of requests for blobs.
	ranges []string
	// spoil answers itself and returns true, or leaves the request to the registry.
	spoil func(w http.ResponseWriter, r *http.Request, next http.Handler) bool
}

func startRegistry(t *testing.T) *proxy {
	t.Helper()
	p := &proxy{next: registry.New(registry.Logger(log.New(io.Discard, "", 0))), seen: map[string]int{}}
	server := httptest.NewServer(p)
	t.Cleanup(server.Close)
	p.host = strings.TrimPrefix(server.URL, "http://")
	return p
}

func (p *proxy) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	p.mu.Lock()
	if r.Method == http.MethodGet {
		p.seen[r.URL.Path]++
		if header := r.Header.Get("Range"); header != "" {
			p.ranges = append(p.ranges, header)
		}
	}
	spoil := p.spoil
	p.mu.Unlock()
	if spoil == nil || !spoil(w, r, p.next) {
		p.next.ServeHTTP(w, r)
	}
}

// set changes how answers are spoilt; nil heals.
func (p *proxy) set(spoil func(http.ResponseWriter, *http.Request, http.Handler) bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.spoil = spoil
}

// forget starts counting anew.
func (p *proxy) forget() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.seen, p.ranges = map[string]int{}, nil
}

// counts returns the requests whose path contains part.
func (p *proxy) counts(part string) map[string]int {
	p.mu.Lock()
	defer p.mu.Unlock()
	found := map[string]int{}
	for path, n := range p.seen {
		if strings.Contains(path, part) {
			found[path] = n
		}
	}
	return found
}

// push writes an image or index into the registry below path:tag and returns the name that a recipe would use.
func (p *proxy) push(t *testing.T, path string, what remote.Taggable) string {
	t.Helper()
	ref, err := name.ParseReference(p.host + "/" + path)
	if err != nil {
		t.Fatal(err)
	}
	if index, ok := what.(v1.ImageIndex); ok {
		err = remote.WriteIndex(ref, index)
	} else {
		err = remote.Write(ref, what.(v1.Image))
	}
	if err != nil {
		t.Fatal(err)
	}
	p.forget()
	return p.host + "/" + path
}

// newImage makes an image for linux on the architecture with random layers of the given size in bytes.
func newImage(t *testing.T, architecture string, layers int, size int64) v1.Image {
	t.Helper()
	image, err := random.Image(size, int64(layers))
	if err != nil {
		t.Fatal(err)
	}
	config, err := image.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	config = config.DeepCopy()
	config.OS, config.Architecture = "linux", architecture
	if image, err = mutate.ConfigFile(image, config); err != nil {
		t.Fatal(err)
	}
	return image
}

// newOCIImage is newImage with OCI media types.
func newOCIImage(t *testing.T, architecture string, layers int, size int64) v1.Image {
	t.Helper()
	docker := newImage(t, architecture, layers, size)
	config, err := docker.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	image := mutate.ConfigMediaType(mutate.MediaType(empty.Image, types.OCIManifestSchema1), types.OCIConfigJSON)
	old, err := docker.Layers()
	if err != nil {
		t.Fatal(err)
	}
	for _, layer := range old {
		if image, err = mutate.Append(image, mutate.Addendum{Layer: layer, MediaType: types.OCILayer}); err != nil {
			t.Fatal(err)
		}
	}
	made, err := image.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	made = made.DeepCopy()
	made.OS, made.Architecture = config.OS, config.Architecture
	if image, err = mutate.ConfigFile(image, made); err != nil {
		t.Fatal(err)
	}
	return image
}

// newIndex makes an index with an image for each architecture.
func newIndex(t *testing.T, images map[string]v1.Image) v1.ImageIndex {
	t.Helper()
	index := mutate.IndexMediaType(empty.Index, types.OCIImageIndex)
	for _, architecture := range []string{"arm64", "amd64", "s390x"} {
		if image, ok := images[architecture]; ok {
			index = mutate.AppendManifests(index, mutate.IndexAddendum{
				Add: image, Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: architecture}},
			})
		}
	}
	return index
}

func newCache(t *testing.T) *cache.Cache {
	t.Helper()
	c, err := cache.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// newSources finds no credentials but those that the test puts into the Docker configuration.
func newSources(t *testing.T) *Sources {
	t.Helper()
	home := t.TempDir()
	t.Setenv("HOME", home)
	t.Setenv("DOCKER_CONFIG", filepath.Join(home, ".docker"))
	t.Setenv("XDG_RUNTIME_DIR", home)
	t.Setenv("REGISTRY_AUTH_FILE", "")
	return &Sources{Cache: newCache(t), Dir: t.TempDir(), RetryWait: time.Millisecond}
}

func mustResolve(t *testing.T, s *Sources, src recipes.ImageSource) []recipes.LockedImage {
	t.Helper()
	images, err := s.Resolve(t.Context(), src, platform, recipes.RoleUser)
	if err != nil {
		t.Fatal(err)
	}
	return images
}

func mustFetch(t *testing.T, s *Sources, images []recipes.LockedImage) {
	t.Helper()
	for _, image := range images {
		if err := s.Fetch(t.Context(), image); err != nil {
			t.Fatal(err)
		}
	}
}

// fetched makes a cache that holds some images of every kind, and returns their lock.
func fetched(t *testing.T, s *Sources) []recipes.LockedImage {
	t.Helper()
	p := startRegistry(t)
	amd64 := newOCIImage(t, "amd64", 3, 3000)
	s.Mirrors = map[string]string{"docker.io": "http://" + p.host + "/hub", "registry.k8s.io": "http://" + p.host}
	p.push(t, "hub/library/app:1", newImage(t, "amd64", 2, 2000))
	p.push(t, "coredns/coredns:v1.12.1", newIndex(t, map[string]v1.Image{"arm64": newOCIImage(t, "arm64", 1, 100), "amd64": amd64}))
	// A layer that two images share.
	p.push(t, "pause:3.10", amd64)
	var locked []recipes.LockedImage
	for _, reference := range []string{"registry.k8s.io/pause:3.10", "app:1", "registry.k8s.io/coredns/coredns:v1.12.1"} {
		locked = append(locked, mustResolve(t, s, recipes.ImageSource{Registry: reference})...)
	}
	mustFetch(t, s, locked)
	return locked
}

// checkBlob compares a blob in the cache with its digest.
func checkBlob(t *testing.T, c *cache.Cache, d digest.Digest) {
	t.Helper()
	b, err := os.ReadFile(c.Path(d))
	if err != nil {
		t.Error(err)
	} else if digest.FromBytes(b) != d {
		t.Errorf("blob %s in the cache is wrong", d)
	}
}

func rawManifest(t *testing.T, what interface{ RawManifest() ([]byte, error) }) []byte {
	t.Helper()
	b, err := what.RawManifest()
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func writeFile(t *testing.T, path string, b []byte) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, b, 0o644); err != nil {
		t.Fatal(err)
	}
}

// writeStore lays the store out as the build does, in dir.
func writeStore(t *testing.T, dir string, c *cache.Cache, locked []recipes.LockedImage) {
	t.Helper()
	for path, b := range storeFiles(t, c, locked) {
		writeFile(t, filepath.Join(dir, path), b)
	}
}

func storeFiles(t *testing.T, c *cache.Cache, locked []recipes.LockedImage) map[string][]byte {
	t.Helper()
	index, err := Index(locked)
	if err != nil {
		t.Fatal(err)
	}
	files := map[string][]byte{"index.json": index, "oci-layout": []byte(LayoutFile)}
	for _, image := range locked {
		parts, err := readParts(c, image)
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range parts.all() {
			b, err := os.ReadFile(c.Path(d.Digest))
			if err != nil {
				t.Fatal(err)
			}
			files[fmt.Sprintf("blobs/sha256/%s", d.Digest.Encoded())] = bytes.Clone(b)
		}
	}
	return files
}
