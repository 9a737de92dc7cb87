package preload

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/containerd/containerd/v2/core/images"
	"github.com/distribution/reference"
	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/nodeimg/nodeimg/internal/credentials"
	"github.com/nodeimg/nodeimg/internal/fetch"
	"github.com/nodeimg/nodeimg/recipes"
)

const (
	// answerTimeout is how long a registry may take until it begins to answer.
	answerTimeout = time.Minute
	// manifestTimeout is how long a manifest may take to arrive: a server that sends a byte now and then must not hold us for ever.
	manifestTimeout = 5 * time.Minute
	// maxRedirects is as many as net/http's own client follows.
	maxRedirects = 10
	// manifestTries is how often a request that is not for a blob is made in all.
	manifestTries = 4
)

// errRedirects says that a registry sends us about.
var errRedirects = fmt.Errorf("more than %d redirects", maxRedirects)

// errEndless says that a registry sends more than it should.
var errEndless = fmt.Errorf("the answer is longer than the %d bytes that a manifest may have", maxManifest)

// temporary are the statuses after which a request is worth repeating.
var temporary = []int{
	http.StatusRequestTimeout, http.StatusTooManyRequests, http.StatusInternalServerError, http.StatusBadGateway,
	http.StatusServiceUnavailable, http.StatusGatewayTimeout,
}

// repository is one repository of a registry, or of the mirror in its place, with its credentials.
type repository struct {
	name  name.Repository
	mu    sync.Mutex
	blobs *fetch.Client
	// authorized is nil until the handshake with the registry succeeded.
	authorized http.RoundTripper
}

// normalize returns the full name under which a node knows the image, and its digest if raw has one. A name with tag and digest keeps
// the tag, so that pods may use either.
func normalize(raw string) (reference.Named, digest.Digest, error) {
	named, err := reference.ParseNormalizedNamed(raw)
	if err != nil {
		return nil, "", recipes.InputErrorf("%q is no image reference: %v", raw, err)
	}
	named = reference.TagNameOnly(named)
	digested, ok := named.(reference.Digested)
	if !ok {
		return named, "", nil
	}
	if tagged, ok := named.(reference.Tagged); ok {
		named, err = reference.WithTag(reference.TrimNamed(named), tagged.Tag())
		if err != nil {
			return nil, "", recipes.InputErrorf("%q is no image reference: %v", raw, err)
		}
	}
	if err := checkDescriptor(ocispec.Descriptor{Digest: digested.Digest()}); err != nil {
		return nil, "", recipes.InputErrorf("%q: %v", raw, err)
	}
	return named, digested.Digest(), nil
}

func (s *Sources) resolveRegistry(ctx context.Context, raw, platform string) (recipes.LockedImage, error) {
	named, d, err := normalize(raw)
	if err != nil {
		return recipes.LockedImage{}, err
	}
	identifier := d.String()
	if tagged, ok := named.(reference.Tagged); ok && d == "" {
		identifier = tagged.Tag()
	}
	target, b, err := s.get(ctx, named, identifier)
	if err != nil {
		return recipes.LockedImage{}, err
	}
	return lock(s.Cache, named.String(), target, b, platform, func(d ocispec.Descriptor) ([]byte, error) {
		if images.IsManifestType(d.MediaType) {
			_, b, err := s.get(ctx, named, d.Digest.String())
			return b, err
		}
		if err := s.repositoryBlob(ctx, named, d); err != nil {
			return nil, err
		}
		return readSmall(s.Cache, d.Digest)
	})
}

// manifest makes sure that the manifest or index d of a locked image is in the cache.
func (s *Sources) manifest(ctx context.Context, image recipes.LockedImage, d string) error {
	if s.Cache.Has(digest.Digest(d)) {
		return nil
	}
	if image.Source.Registry != "" {
		named, _, err := normalize(image.Source.Registry)
		if err != nil {
			return err
		}
		_, b, err := s.get(ctx, named, d)
		if err != nil {
			return err
		}
		_, err = s.Cache.PutBytes(b)
		return err
	}
	if image.Source == (recipes.ImageSource{}) {
		return fmt.Errorf("manifest %s is not in the cache any more; build again without the old lock", d)
	}
	again, err := s.Resolve(ctx, image.Source, image.Platform, image.Role)
	if err != nil {
		return err
	}
	for _, found := range again {
		if found.Reference == image.Reference && found.Digest != image.Digest {
			return fmt.Errorf("%s changed since it was locked, from %s to %s", describe(image.Source), image.Digest, found.Digest)
		}
	}
	if !s.Cache.Has(digest.Digest(d)) {
		return fmt.Errorf("%s does not hold %s any more", describe(image.Source), image.Reference)
	}
	return nil
}

// registryBlob gets one blob of a locked image from its registry.
func (s *Sources) registryBlob(ctx context.Context, image recipes.LockedImage, d ocispec.Descriptor) error {
	named, _, err := normalize(image.Source.Registry)
	if err != nil {
		return err
	}
	return s.repositoryBlob(ctx, named, d)
}

func (s *Sources) repositoryBlob(ctx context.Context, named reference.Named, d ocispec.Descriptor) error {
	repository, err := s.repository(ctx, named)
	if err != nil {
		return err
	}
	target := url.URL{
		Scheme: repository.name.Scheme(), Host: repository.name.RegistryStr(),
		Path: "/v2/" + repository.name.RepositoryStr() + "/blobs/" + d.Digest.String(),
	}
	return repository.blobs.Blob(ctx, target.String(), d.Digest, d.Size)
}

// get reads a manifest or index by tag or digest, byte for byte.
func (s *Sources) get(ctx context.Context, named reference.Named, identifier string) (ocispec.Descriptor, []byte, error) {
	repository, err := s.repository(ctx, named)
	if err != nil {
		return ocispec.Descriptor{}, nil, err
	}
	var ref name.Reference = repository.name.Tag(identifier)
	if strings.Contains(identifier, ":") {
		ref = repository.name.Digest(identifier)
	}
	for try := 1; ; try++ {
		d, b, err := repository.manifest(ctx, ref)
		if err == nil {
			return d, b, nil
		}
		var status *transport.Error
		if ctx.Err() != nil || errors.As(err, &status) || errors.Is(err, errEndless) || errors.Is(err, errRedirects) || errors.Is(err, context.DeadlineExceeded) || try == manifestTries {
			return ocispec.Descriptor{}, nil, explain(ctx, repository.name, err)
		}
		if err := fetch.Wait(ctx, s.retryWait()<<(try-1)); err != nil {
			return ocispec.Descriptor{}, nil, err
		}
	}
}

// manifest asks once.
func (r *repository) manifest(ctx context.Context, ref name.Reference) (ocispec.Descriptor, []byte, error) {
	ctx, cancel := context.WithTimeout(ctx, manifestTimeout)
	defer cancel()
	found, err := remote.Get(ref, remote.WithContext(ctx), remote.WithTransport(r.authorized))
	if err != nil {
		return ocispec.Descriptor{}, nil, err
	}
	b := found.Manifest
	return ocispec.Descriptor{MediaType: mediaType(string(found.MediaType), b), Digest: digest.FromBytes(b), Size: int64(len(b))}, b, nil
}

// mediaType believes the server when it says something that makes sense, else the manifest itself: static mirrors send text/plain.
func mediaType(header string, b []byte) string {
	if images.IsManifestType(header) || images.IsIndexType(header) {
		return header
	}
	var probe struct {
		MediaType string            `json:"mediaType"`
		Manifests []json.RawMessage `json:"manifests"`
		Layers    []json.RawMessage `json:"layers"`
	}
	if decodeJSON(b, &probe) != nil {
		return header
	}
	switch {
	case probe.MediaType != "":
		return probe.MediaType
	case probe.Manifests != nil:
		return ocispec.MediaTypeImageIndex
	case probe.Layers != nil:
		return ocispec.MediaTypeImageManifest
	default:
		return header
	}
}

// repository returns the place that serves the image, after the handshake that finds out about credentials.
func (s *Sources) repository(ctx context.Context, named reference.Named) (*repository, error) {
	place, err := s.place(named)
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	if s.repositories == nil {
		s.repositories = map[string]*repository{}
	}
	r := s.repositories[place.Name()]
	if r == nil {
		r = &repository{name: place}
		s.repositories[place.Name()] = r
	}
	s.mu.Unlock()
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.authorized != nil {
		return r, nil
	}
	keychain := s.Keychain
	if keychain == nil {
		keychain = credentials.Keychain()
	}
	auth, err := authn.Resolve(ctx, keychain, place)
	if err != nil {
		return nil, fmt.Errorf("finding credentials for %s: %w; check the configuration of docker and podman", place.RegistryStr(), err)
	}
	authorized, err := transport.NewWithContext(ctx, place.Registry, auth, s.transport(), []string{place.Scope(transport.PullScope)})
	if err != nil {
		return nil, explain(ctx, place, err)
	}
	r.blobs = &fetch.Client{Cache: s.Cache, Transport: authorized, RetryWait: s.RetryWait}
	r.authorized = authorized
	return r, nil
}

// place applies mirrors and says which repository to ask.
func (s *Sources) place(named reference.Named) (name.Repository, error) {
	domain, path := reference.Domain(named), reference.Path(named)
	var options []name.Option
	if mirror, ok := s.Mirrors[domain]; ok {
		u, err := url.Parse(mirror)
		if err != nil || u.Host == "" || (u.Scheme != "http" && u.Scheme != "https") {
			return name.Repository{}, recipes.InputErrorf("the mirror of %s is not an http or https URL", domain)
		}
		if u.Scheme == "http" {
			options = append(options, name.Insecure)
		}
		domain, path = u.Host, strings.TrimPrefix(strings.TrimSuffix(u.Path, "/")+"/"+path, "/")
	}
	for _, insecure := range s.InsecureRegistries {
		if insecure == domain {
			options = append(options, name.Insecure)
		}
	}
	place, err := name.NewRepository(domain+"/"+path, options...)
	if err != nil {
		return name.Repository{}, recipes.InputErrorf("%s: %v", named, err)
	}
	return place, nil
}

func (s *Sources) retryWait() time.Duration {
	if s.RetryWait > 0 {
		return s.RetryWait
	}
	return time.Second
}

func (s *Sources) transport() http.RoundTripper {
	base := remote.DefaultTransport.(*http.Transport).Clone()
	// A body that the transport decompressed would have neither the digest nor the offsets that were asked for.
	base.DisableCompression = true
	base.ResponseHeaderTimeout = answerTimeout
	if s.Roots != nil {
		base.TLSClientConfig = &tls.Config{RootCAs: s.Roots, MinVersion: tls.VersionTLS12}
	}
	retry := transport.NewRetry(base, transport.WithRetryStatusCodes(temporary...),
		transport.WithRetryBackoff(transport.Backoff{Duration: s.retryWait(), Factor: 2, Jitter: 0.1, Steps: manifestTries}))
	return &splitTransport{blobs: base, others: retry}
}

// splitTransport repeats failed requests, but not those for blobs: package fetch does that, and knows how to resume.
type splitTransport struct{ blobs, others http.RoundTripper }

// RoundTrip implements http.RoundTripper.
func (t *splitTransport) RoundTrip(r *http.Request) (*http.Response, error) {
	for count, from := 0, r; from.Response != nil && from.Response.Request != nil; from = from.Response.Request {
		if count++; count > maxRedirects {
			return nil, errRedirects
		}
	}
	if strings.Contains(r.URL.Path, "/blobs/") {
		return t.blobs.RoundTrip(r)
	}
	response, err := t.others.RoundTrip(r)
	if err == nil {
		response.Body = &boundedBody{response.Body, maxManifest}
	}
	return response, err
}

// boundedBody is an answer that fails when it goes on for too long.
type boundedBody struct {
	io.ReadCloser
	left int64
}

// Read implements io.Reader.
func (b *boundedBody) Read(p []byte) (int, error) {
	if b.left < 0 {
		return 0, errEndless
	}
	n, err := b.ReadCloser.Read(p[:min(int64(len(p)), b.left+1)])
	b.left -= int64(n)
	if b.left < 0 {
		return n - 1, errEndless
	}
	return n, err
}

// explain says what a registry's refusal means and what to do.
func explain(ctx context.Context, place name.Repository, err error) error {
	if cause := context.Cause(ctx); cause != nil {
		return cause
	}
	var status *transport.Error
	if !errors.As(err, &status) {
		if errors.Is(err, errEndless) {
			return fmt.Errorf("registry %s does not answer for %s as a registry does: %w", place.RegistryStr(), place.RepositoryStr(), errEndless)
		}
		// Where a registry redirects to, the address may hold a signature, and after a redirect by a proxy a password.
		var asked *url.Error
		if errors.As(err, &asked) {
			err = fmt.Errorf("%s: %w", fetch.Redact(asked.URL), asked.Err)
		}
		return fmt.Errorf("asking registry %s: %w; check the network, or redirect it with the recipe's mirrors", place.RegistryStr(), err)
	}
	host := place.RegistryStr()
	switch code := status.StatusCode; {
	case code == http.StatusNotFound:
		return recipes.InputErrorf("registry %s has no such image in %s (404); check name and tag", host, place.RepositoryStr())
	case code == http.StatusUnauthorized || code == http.StatusForbidden:
		return fmt.Errorf("registry %s refuses access to %s (%d); log in with \"docker login %s\", and check that the image exists", host, place.RepositoryStr(), code, host)
	case code == http.StatusTooManyRequests:
		return fmt.Errorf("registry %s limits requests (429); wait, log in with \"docker login %s\", or use a mirror", host, host)
	default:
		return fmt.Errorf("registry %s fails for %s (%d %s); run again later, or use a mirror", host, place.RepositoryStr(), code, http.StatusText(code))
	}
}
