package upstream

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/opencontainers/go-digest"

	"github.com/nodeimg/nodeimg/internal/cache"
	"github.com/nodeimg/nodeimg/internal/cachedimage"
	"github.com/nodeimg/nodeimg/nodeimage"
	"github.com/nodeimg/nodeimg/recipes"
	"github.com/nodeimg/nodeimg/sources"
	"github.com/nodeimg/nodeimg/test/internal/tools"
)

// hosts are the servers that the fixture stands in for; each is a path prefix on it.
var hosts = []string{"dl.k8s.io", "github.com", "registry.k8s.io", "ghcr.io", "docker.io"}

// Server is the running fixture. The caller must Close it.
type Server struct {
	http  *httptest.Server
	cache *cache.Cache
	files map[string]file

	mu       sync.Mutex
	requests []string
}

// file is what the release servers have under a URL path: a blob of the cache or a short text.
type file struct {
	blob digest.Digest
	text string
}

// Start serves what lock names: the lock of a recipe with source modules, whose blobs are in c. It prepares what is missing, for the
// first lock in a cache about a minute.
func Start(ctx context.Context, c *cache.Cache, lock *recipes.Lock) (*Server, error) {
	s := &Server{cache: c, files: map[string]file{}}
	images := registry.New(registry.WithBlobHandler(blobs{c}), registry.Logger(log.New(io.Discard, "", 0)))
	s.http = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.mu.Lock()
		s.requests = append(s.requests, r.Method+" "+r.URL.Path)
		s.mu.Unlock()
		if strings.HasPrefix(r.URL.Path, "/v2/") {
			images.ServeHTTP(w, r)
			return
		}
		s.serveFile(w, r)
	}))
	err := s.addReleases(ctx, lock)
	if err == nil {
		err = s.addImages(ctx, lock)
	}
	if err != nil {
		s.Close()
		return nil, fmt.Errorf("starting the upstream fixture: %w", err)
	}
	s.mu.Lock()
	s.requests = nil
	s.mu.Unlock()
	return s, nil
}

// StartCompiled serves what the shipped recipe k8s-node-source.yaml locks, which it resolves with the cache c first: from an empty
// cache that compiles for several minutes.
func StartCompiled(ctx context.Context, c *cache.Cache) (*Server, *recipes.Lock, error) {
	lock, err := compiled(ctx, c)
	if err != nil {
		return nil, nil, fmt.Errorf("compiling for the upstream fixture: %w", err)
	}
	s, err := Start(ctx, c, lock)
	return s, lock, err
}

func compiled(ctx context.Context, c *cache.Cache) (*recipes.Lock, error) {
	root, err := tools.Root(ctx)
	if err != nil {
		return nil, err
	}
	documents, err := recipes.Load(filepath.Join(root, "recipes", "k8s-node-source.yaml"), nil)
	if err != nil {
		return nil, err
	}
	return sources.Resolve(ctx, documents[0], sources.Options{Cache: c, Epoch: nodeimage.DefaultEpoch})
}

// Close ends the server.
func (s *Server) Close() { s.http.Close() }

// Host is the server's address, host:port on loopback.
func (s *Server) Host() string { return strings.TrimPrefix(s.http.URL, "http://") }

// Mirrors are for a recipe's spec.mirrors: each publisher's host with the URL prefix that takes its place.
func (s *Server) Mirrors() map[string]string {
	mirrors := map[string]string{}
	for _, host := range hosts {
		mirrors[host] = s.http.URL + "/" + host
	}
	return mirrors
}

// Requests are the method and path of every request since Start, in order.
func (s *Server) Requests() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.requests)
}

// Push adds an image under its full name, for instance docker.io/library/nginx:1.29.
func (s *Server) Push(ctx context.Context, reference string, image v1.Image) error {
	target, err := name.NewTag(s.Host()+"/"+reference, name.Insecure)
	if err == nil {
		err = remote.Write(target, image, remote.WithContext(ctx))
	}
	if err != nil {
		return fmt.Errorf("adding image %s to the upstream fixture: %w", reference, err)
	}
	return nil
}

// serveFile answers as a release server.
func (s *Server) serveFile(w http.ResponseWriter, r *http.Request) {
	found, ok := s.files[r.URL.Path]
	if !ok {
		http.NotFound(w, r)
		return
	}
	if found.blob == "" {
		_, _ = io.WriteString(w, found.text)
		return
	}
	content, err := s.cache.Open(found.blob)
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	defer content.Close()
	info, err := content.Stat()
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/octet-stream")
	w.Header().Set("Etag", `"`+found.blob.Encoded()+`"`)
	http.ServeContent(w, r, path.Base(r.URL.Path), info.ModTime(), content)
}

// blobs lets the registry serve and store blobs in the cache.
type blobs struct{ cache *cache.Cache }

// Get implements registry.BlobHandler.
func (b blobs) Get(_ context.Context, _ string, h v1.Hash) (io.ReadCloser, error) {
	if !b.cache.Has(digest.Digest(h.String())) {
		return nil, registry.ErrNotFound
	}
	return b.cache.Open(digest.Digest(h.String()))
}

// Stat implements registry.BlobStatHandler.
func (b blobs) Stat(_ context.Context, _ string, h v1.Hash) (int64, error) {
	if !b.cache.Has(digest.Digest(h.String())) {
		return 0, registry.ErrNotFound
	}
	return b.cache.Size(digest.Digest(h.String()))
}

// Put implements registry.BlobPutHandler.
func (b blobs) Put(_ context.Context, _ string, h v1.Hash, content io.ReadCloser) error {
	defer content.Close()
	_, _, err := b.cache.Put(content, digest.Digest(h.String()))
	return err
}

// addImages pushes the lock's images under their own names and under those that kubeadm asks for, and the images that no module makes.
func (s *Server) addImages(ctx context.Context, lock *recipes.Lock) error {
	wanted, err := kubeadmImages(ctx, s.cache, lock)
	if err != nil {
		return err
	}
	for _, locked := range lock.Images {
		image, err := cachedimage.Open(s.cache, digest.Digest(locked.Manifest))
		if err != nil {
			return err
		}
		names := []string{locked.Reference}
		for _, reference := range wanted {
			if repository(reference) == repository(locked.Reference) {
				names = append(names, reference)
			}
		}
		for _, reference := range names {
			if err := s.Push(ctx, reference, image); err != nil {
				return err
			}
		}
	}
	plugin, err := flannelPluginImage(ctx, s.cache, lock)
	if err != nil {
		return err
	}
	if err := s.Push(ctx, flannelPluginReference, plugin); err != nil {
		return err
	}
	debian, err := Distribution(ctx, s.cache, lock.Base.Distro, lock.Base.Codename)
	if err != nil {
		return err
	}
	return s.Push(ctx, fmt.Sprintf("docker.io/library/%s:%s", lock.Base.Distro, lock.Base.Release), debian)
}

// repository is a reference without its tag.
func repository(reference string) string {
	return reference[:strings.LastIndex(reference, ":")]
}

// partContent reads the program of a lock that lies at path in the node.
func partContent(c *cache.Cache, lock *recipes.Lock, path string) ([]byte, error) {
	i := slices.IndexFunc(lock.Parts, func(p recipes.LockedPart) bool { return p.Path == path })
	if i < 0 {
		return nil, fmt.Errorf("the lock has no program %s", path)
	}
	f, err := c.Open(digest.Digest(lock.Parts[i].Digest))
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var content bytes.Buffer
	if _, err := io.Copy(&content, f); err != nil {
		return nil, fmt.Errorf("reading %s: %w", path, err)
	}
	return content.Bytes(), nil
}
