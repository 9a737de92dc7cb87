package publish

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/distribution/reference"
	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"

	"github.com/nodeimg/nodeimg/internal/credentials"
	"github.com/nodeimg/nodeimg/internal/progress"
	"github.com/nodeimg/nodeimg/recipes"
)

// userAgent is how registries see this program.
const userAgent = "nodeimg"

// defaultJobs is how many blobs are uploaded at a time when PushOptions do not say.
const defaultJobs = 4

// defaultBackoff makes five attempts within about eight seconds, no single wait being longer than a user waits after Ctrl-C.
var defaultBackoff = remote.Backoff{Duration: 500 * time.Millisecond, Factor: 2, Jitter: 0.1, Steps: 5}

// PushOptions say where an image goes. The zero value of everything but References works.
type PushOptions struct {
	// References are image names with tags; a missing tag means latest.
	References []string
	// InsecureRegistries are host[:port]s that may be spoken to by plain http; loopback and private addresses always may.
	InsecureRegistries []string
	// Mounts names, for layers that another repository is known to hold, that repository, for instance docker.io/library/debian. It is
	// used where it lies in the registry that is pushed to.
	Mounts map[v1.Hash]string
	// Jobs is how many blobs are uploaded at a time; 0 means 4.
	Jobs int
	// Keychain finds credentials; nil means the user's (docker's and podman's).
	Keychain authn.Keychain
	// Transport reaches registries; nil means go-containerregistry's default one, which honours HTTPS_PROXY.
	Transport http.RoundTripper
	// Backoff spaces the attempts after a passing failure; its zero value means five attempts within about eight seconds.
	Backoff remote.Backoff
}

// Push uploads img and gives it all the tags, existing blobs being skipped and layers mounted from other repositories of the same
// registry where possible. It returns one reference with digest for each repository, in the order of References. The error is a
// *recipes.InputError when a reference is none, and a *PushError when a registry refused.
func Push(ctx context.Context, img v1.Image, o PushOptions) ([]string, error) {
	targets, err := o.targets()
	if err != nil {
		return nil, err
	}
	hash, err := img.Digest()
	if err != nil {
		return nil, fmt.Errorf("pushing: reading the manifest: %w", err)
	}
	p := &push{options: o, img: img}
	if p.pusher, err = remote.NewPusher(
		remote.WithAuthFromKeychain(cmp.Or[authn.Keychain](o.Keychain, credentials.Keychain())),
		remote.WithTransport(cmp.Or(o.Transport, remote.DefaultTransport)),
		remote.WithJobs(cmp.Or(o.Jobs, defaultJobs)),
		remote.WithUserAgent(userAgent),
		remote.WithRetryBackoff(cmp.Or(o.Backoff, defaultBackoff)),
		remote.WithRetryPredicate(p.again),
	); err != nil {
		return nil, fmt.Errorf("pushing: %w", err)
	}
	var pushed []string
	for i, target := range targets {
		if err := p.repository(ctx, target, targets[:i]); err != nil {
			return nil, err
		}
		pushed = append(pushed, target.name+"@"+hash.String())
	}
	return pushed, nil
}

// target is one repository with the tags that the image gets there.
type target struct {
	// name is the repository as users write it, for instance docker.io/library/node.
	name       string
	repository name.Repository
	tags       []string
}

// targets groups the references by repository.
func (o PushOptions) targets() ([]target, error) {
	if len(o.References) == 0 {
		return nil, recipes.InputErrorf("pushing needs an image name; give one with -t, for instance -t registry.example.com/k8s-node:v1.34.10")
	}
	var targets []target
	for _, ref := range o.References {
		named, err := tagged(ref)
		if err != nil {
			return nil, err
		}
		var options []name.Option
		if slices.Contains(o.InsecureRegistries, reference.Domain(named)) {
			options = append(options, name.Insecure)
		}
		repository, err := name.NewRepository(named.Name(), options...)
		if err != nil {
			return nil, recipes.InputErrorf("image name %q: %v", ref, err)
		}
		i := slices.IndexFunc(targets, func(t target) bool { return t.name == named.Name() })
		if i < 0 {
			i = len(targets)
			targets = append(targets, target{name: named.Name(), repository: repository})
		}
		if !slices.Contains(targets[i].tags, named.Tag()) {
			targets[i].tags = append(targets[i].tags, named.Tag())
		}
	}
	return targets, nil
}

// push is one Push.
type push struct {
	options PushOptions
	img     v1.Image
	pusher  *remote.Pusher

	mu   sync.Mutex
	step *progress.Step
}

// again decides whether an attempt that ended with err is repeated, and shows that on the screen.
func (p *push) again(err error) bool {
	if !passing(err) {
		return false
	}
	p.mu.Lock()
	step := p.step
	p.mu.Unlock()
	if step != nil {
		step.Log("passing failure: %s", redact(err))
	}
	return true
}

// repository pushes to one repository. What it holds is already in the repositories before.
func (p *push) repository(ctx context.Context, t target, before []target) error {
	step := progress.Start(ctx, "[push] %s:%s", t.name, t.tags[0])
	p.mu.Lock()
	p.step = step
	p.mu.Unlock()
	img, err := p.prepare(t, before, step)
	if err != nil {
		return step.Done(fmt.Errorf("pushing to %s: %w", t.name, err))
	}
	for i, tag := range t.tags {
		if err := p.pusher.Push(ctx, t.repository.Tag(tag), img); err != nil {
			return step.Done(pushError(ctx, t, tag, err))
		}
		if i == 0 {
			img.settle()
		} else {
			step.Log("tagged %s:%s", t.name, tag)
		}
	}
	return step.Done(nil)
}

// prepare wraps the image so that its bytes are counted on step and its layers are mounted from where they are known to be.
func (p *push) prepare(t target, before []target, step *progress.Step) (*countedImage, error) {
	layers, err := p.img.Layers()
	if err != nil {
		return nil, fmt.Errorf("reading the layers: %w", err)
	}
	img := &countedImage{Image: p.img, step: step}
	var total int64
	for _, layer := range layers {
		hash, err := layer.Digest()
		if err != nil {
			return nil, fmt.Errorf("reading a layer: %w", err)
		}
		size, err := layer.Size()
		if err != nil {
			return nil, fmt.Errorf("reading layer %s: %w", hash, err)
		}
		counted := &countedLayer{Layer: layer, hash: hash, size: size, step: step}
		img.counted = append(img.counted, counted)
		total += size
		if from, ok := p.mountFrom(t, before, hash); ok {
			img.layers = append(img.layers, &remote.MountableLayer{Layer: counted, Reference: from})
		} else {
			img.layers = append(img.layers, counted)
		}
	}
	step.Total(total)
	return img, nil
}

// mountFrom names a repository of t's registry that holds the layer.
func (p *push) mountFrom(t target, before []target, layer v1.Hash) (name.Reference, bool) {
	for _, b := range before {
		if b.repository.RegistryStr() == t.repository.RegistryStr() {
			return b.repository.Tag(b.tags[0]), true
		}
	}
	from, ok := p.options.Mounts[layer]
	if !ok {
		return nil, false
	}
	named, err := reference.ParseNormalizedNamed(from)
	if err != nil {
		return nil, false
	}
	repository, err := name.NewRepository(named.Name())
	if err != nil || repository.RegistryStr() != t.repository.RegistryStr() || repository.RepositoryStr() == t.repository.RepositoryStr() {
		return nil, false
	}
	repository.Registry = t.repository.Registry
	return repository.Tag("latest"), true
}

// countedImage shows how many bytes of its layers were sent. It counts by itself because the pusher's own progress channel may be
// written to after the push has returned (net/http finishes with a request's body when it likes).
type countedImage struct {
	v1.Image
	step    *progress.Step
	layers  []v1.Layer
	counted []*countedLayer
}

// Layers implements v1.Image.
func (i *countedImage) Layers() ([]v1.Layer, error) { return i.layers, nil }

// settle counts what the registry already had.
func (i *countedImage) settle() {
	var blobs int
	var bytes int64
	for _, layer := range i.counted {
		if rest := layer.rest(); rest > 0 {
			blobs++
			bytes += rest
		}
	}
	if blobs > 0 {
		i.step.Add(bytes)
		i.step.Log("%d of %d layers (%d bytes) were already there", blobs, len(i.counted), bytes)
	}
}

// countedLayer counts what is read of it; a second attempt takes back what the first one counted.
type countedLayer struct {
	v1.Layer
	hash v1.Hash
	size int64
	step *progress.Step

	mu      sync.Mutex
	attempt int
	sent    int64
}

// Digest implements v1.Layer.
func (l *countedLayer) Digest() (v1.Hash, error) { return l.hash, nil }

// Size implements v1.Layer.
func (l *countedLayer) Size() (int64, error) { return l.size, nil }

// Compressed implements v1.Layer.
func (l *countedLayer) Compressed() (io.ReadCloser, error) {
	r, err := l.Layer.Compressed()
	if err != nil {
		return nil, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.step.Add(-l.sent)
	l.sent = 0
	l.attempt++
	return &countedReader{ReadCloser: r, layer: l, attempt: l.attempt}, nil
}

func (l *countedLayer) rest() int64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.size - l.sent
}

type countedReader struct {
	io.ReadCloser
	layer   *countedLayer
	attempt int
}

// Read implements io.Reader.
func (r *countedReader) Read(p []byte) (int, error) {
	n, err := r.ReadCloser.Read(p)
	r.layer.mu.Lock()
	defer r.layer.mu.Unlock()
	if r.attempt == r.layer.attempt {
		r.layer.sent += int64(n)
		r.layer.step.Add(int64(n))
	}
	return n, err
}
