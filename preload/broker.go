package preload

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/distribution/reference"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/nodeimg/nodeimg/internal/progress"
	"github.com/nodeimg/nodeimg/recipes"
)

// closeGrace is how long Close lets answers that are under way finish.
const closeGrace = time.Second

// headerPatience is how long an answer's header waits for a fetch; containerd gives up after 30 s (core/remotes/docker/registry.go).
const headerPatience = 10 * time.Second

// Broker is a read-only OCI distribution server on a unix socket that serves exactly the images it was started with. The build's steps,
// which have no network, reach it over the BuildKit session. Several of them may ask for one blob; it is fetched once, and nobody sees
// a byte of it before its digest was verified.
type Broker struct {
	sources *Sources
	socket  string
	server  *http.Server
	// ctx bounds fetches: they outlive the request that caused them, because another may want the same blob.
	ctx    context.Context
	cancel context.CancelFunc
	served sync.WaitGroup
	// patience is headerPatience; tests shorten it.
	patience time.Duration
	// repositories are the images by full repository name, for instance docker.io/library/nginx.
	repositories map[string][]recipes.LockedImage

	mu sync.Mutex
	// failures are one for each image in failed, which holds references.
	failures []error
	failed   map[string]bool
}

// Serve starts a broker for the images, whose manifests it gets into the cache if they are not there; layers are fetched when someone
// asks for them. It serves until Close is called or ctx ends; the caller must call Close.
func Serve(ctx context.Context, sources *Sources, images []recipes.LockedImage) (*Broker, error) {
	b := &Broker{sources: sources, patience: headerPatience, repositories: map[string][]recipes.LockedImage{}, failed: map[string]bool{}}
	for _, image := range images {
		named, _, err := normalize(image.Reference)
		if err != nil {
			return nil, fmt.Errorf("serving %s: %w", image.Reference, err)
		}
		if _, err := sources.parts(ctx, image); err != nil {
			return nil, fmt.Errorf("serving %s: %w", image.Reference, err)
		}
		b.repositories[named.Name()] = append(b.repositories[named.Name()], image)
	}
	dir, release, err := socketDir()
	if err != nil {
		return nil, fmt.Errorf("starting the broker: %w", err)
	}
	b.socket = filepath.Join(dir, "broker.sock")
	listener, err := (&net.ListenConfig{}).Listen(ctx, "unix", b.socket)
	if err != nil {
		release()
		return nil, fmt.Errorf("starting the broker: %w", err)
	}
	b.ctx, b.cancel = context.WithCancel(ctx)
	b.server = &http.Server{Handler: http.HandlerFunc(b.serve), ReadHeaderTimeout: answerTimeout}
	b.served.Go(func() { _ = b.server.Serve(listener) })
	b.served.Go(func() {
		<-b.ctx.Done()
		graceful, cancel := context.WithTimeout(context.WithoutCancel(ctx), closeGrace)
		defer cancel()
		if b.server.Shutdown(graceful) != nil {
			_ = b.server.Close()
		}
		release()
	})
	return b, nil
}

// Socket is the path of the unix socket; only this user can open it.
func (b *Broker) Socket() string { return b.socket }

// Err returns why blobs could not be served, the first reason for each image, joined, or nil. A failed build step shows only that the server failed; this is the reason.
func (b *Broker) Err() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	return errors.Join(b.failures...)
}

// Close stops serving and removes the socket. It is safe to call more than once.
func (b *Broker) Close() error {
	b.cancel()
	b.served.Wait()
	return nil
}

// serve answers one request of the distribution specification's pull part (opencontainers/distribution-spec, "Pull").
func (b *Broker) serve(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Docker-Distribution-Api-Version", "registry/2.0")
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		refuse(w, http.StatusMethodNotAllowed, transport.UnsupportedErrorCode, "this registry is read-only")
		return
	}
	rest, ok := strings.CutPrefix(r.URL.Path, "/v2/")
	if r.URL.Path == "/v2" || ok && rest == "" {
		w.Header().Set("Content-Type", "application/json")
		_, _ = w.Write([]byte("{}"))
		return
	}
	name, kind, identifier := split(rest)
	images := b.images(name, r.URL.Query().Get("ns"))
	switch {
	case !ok || kind == "":
		refuse(w, http.StatusNotFound, transport.UnsupportedErrorCode, "no such endpoint")
	case len(images) == 0:
		refuse(w, http.StatusNotFound, transport.NameUnknownErrorCode, name+" is not in the lock")
	case kind == "manifests":
		b.serveManifest(w, r, images, identifier)
	default:
		b.serveBlob(w, r, images, identifier)
	}
}

// split takes NAME/manifests/IDENTIFIER or NAME/blobs/IDENTIFIER apart; kind is empty for anything else.
func split(rest string) (name, kind, identifier string) {
	for _, kind := range []string{"manifests", "blobs"} {
		if i := strings.LastIndex(rest, "/"+kind+"/"); i > 0 {
			return rest[:i], kind, rest[i+len(kind)+2:]
		}
	}
	return rest, "", ""
}

// images finds the images of a repository. containerd asks a mirror for the path only and names the registry in ns; other clients put
// the registry before the path.
func (b *Broker) images(name, ns string) []recipes.LockedImage {
	if ns != "" {
		name = ns + "/" + name
	}
	named, err := reference.ParseNormalizedNamed(name)
	if err != nil {
		return nil
	}
	return b.repositories[reference.TrimNamed(named).Name()]
}

func (b *Broker) serveManifest(w http.ResponseWriter, r *http.Request, images []recipes.LockedImage, identifier string) {
	for _, image := range images {
		parts, err := readParts(b.sources.Cache, image)
		if err != nil {
			b.fail(w, image, err)
			return
		}
		for _, d := range []ocispec.Descriptor{parts.target, parts.manifest} {
			if d.Digest.String() == identifier || d.Digest == parts.target.Digest && identifier != "" && tag(image) == identifier {
				b.serveFile(w, r, image, d)
				return
			}
		}
	}
	refuse(w, http.StatusNotFound, transport.ManifestUnknownErrorCode, identifier+" is not in the lock")
}

func (b *Broker) serveBlob(w http.ResponseWriter, r *http.Request, images []recipes.LockedImage, identifier string) {
	for _, image := range images {
		parts, err := readParts(b.sources.Cache, image)
		if err != nil {
			b.fail(w, image, err)
			return
		}
		for _, d := range parts.all() {
			if d.Digest.String() != identifier {
				continue
			}
			d.MediaType = "application/octet-stream"
			if r.Method == http.MethodHead {
				describeBlob(w, d)
				return
			}
			b.serveFetched(w, r, image, d)
			return
		}
	}
	refuse(w, http.StatusNotFound, transport.BlobUnknownErrorCode, identifier+" is not in the lock")
}

// serveFetched serves a blob that may have to be fetched first. When that takes long the answer's header goes out before, or the client
// would give up; should the fetch then fail, the connection is cut before the first byte, which no client takes for a complete blob.
func (b *Broker) serveFetched(w http.ResponseWriter, r *http.Request, image recipes.LockedImage, d ocispec.Descriptor) {
	fetched := make(chan error, 1)
	go func() { fetched <- b.fetch(image, d) }()
	patience := time.NewTimer(b.patience)
	defer patience.Stop()
	select {
	case err := <-fetched:
		if err != nil {
			b.fail(w, image, err)
			return
		}
		b.serveFile(w, r, image, d)
		return
	case <-patience.C:
	}
	describeBlob(w, d)
	_ = http.NewResponseController(w).Flush()
	if err := <-fetched; err != nil {
		b.note(image, err)
		panic(http.ErrAbortHandler)
	}
	f, err := b.sources.Cache.Open(d.Digest)
	if err != nil {
		b.note(image, err)
		panic(http.ErrAbortHandler)
	}
	defer f.Close()
	_, _ = io.Copy(w, f)
}

// describeBlob sends the header of a whole blob.
func describeBlob(w http.ResponseWriter, d ocispec.Descriptor) {
	w.Header().Set("Content-Type", d.MediaType)
	w.Header().Set("Content-Length", strconv.FormatInt(d.Size, 10))
	w.Header().Set("Docker-Content-Digest", d.Digest.String())
	w.WriteHeader(http.StatusOK)
}

// fetch gets a blob into the cache, where only verified ones are.
func (b *Broker) fetch(image recipes.LockedImage, d ocispec.Descriptor) error {
	if b.sources.Cache.Has(d.Digest) {
		return nil
	}
	step := progress.Start(b.ctx, "[fetch] %s %s", image.Reference, short(d.Digest))
	step.Total(d.Size)
	return step.Done(b.sources.blob(b.ctx, image, d, step))
}

func (b *Broker) serveFile(w http.ResponseWriter, r *http.Request, image recipes.LockedImage, d ocispec.Descriptor) {
	f, err := b.sources.Cache.Open(d.Digest)
	if err != nil {
		b.fail(w, image, err)
		return
	}
	defer f.Close()
	w.Header().Set("Content-Type", d.MediaType)
	w.Header().Set("Docker-Content-Digest", d.Digest.String())
	w.Header().Set("ETag", `"`+d.Digest.String()+`"`)
	http.ServeContent(w, r, "", time.Time{}, f)
}

// fail answers that the source failed and keeps the reason for Err.
func (b *Broker) fail(w http.ResponseWriter, image recipes.LockedImage, err error) {
	b.note(image, err)
	refuse(w, http.StatusBadGateway, transport.UnavailableErrorCode, err.Error())
}

func (b *Broker) note(image recipes.LockedImage, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	// Clients ask again, and parts of one image mostly fail for one reason.
	if b.failed[image.Reference] {
		return
	}
	b.failed[image.Reference] = true
	b.failures = append(b.failures, fmt.Errorf("serving %s: %w", image.Reference, err))
}

// refuse answers with the specification's error body.
func refuse(w http.ResponseWriter, status int, code transport.ErrorCode, message string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(map[string][]transport.Diagnostic{"errors": {{Code: code, Message: message}}})
}

// tag is the tag in a locked image's name, or "".
func tag(image recipes.LockedImage) string {
	named, _, err := normalize(image.Reference)
	if err != nil {
		return ""
	}
	if tagged, ok := named.(reference.Tagged); ok {
		return tagged.Tag()
	}
	return ""
}

// short is how a digest appears on the screen.
func short(d digest.Digest) string { return d.Encoded()[:12] }
