package preload

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"sync"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"

	"github.com/nodeimg/nodeimg/internal/cache"
	"github.com/nodeimg/nodeimg/internal/fetch"
	"github.com/nodeimg/nodeimg/internal/progress"
	"github.com/nodeimg/nodeimg/recipes"
)

// parallelBlobs is how many blobs of one image are fetched at a time, as many as Docker and containerd take by default, more or less.
const parallelBlobs = 4

// Engine is the local Docker Engine, as far as images are read from it.
type Engine interface {
	// Save streams the image as "docker save" writes it; the caller closes the stream.
	Save(ctx context.Context, ref string) (io.ReadCloser, error)
}

// Sources finds images and gets their bytes into the cache. Cache must be set. Its methods are safe for concurrent use, and it must not
// be copied after its first use.
type Sources struct {
	// Cache receives manifests, configs and layers.
	Cache *cache.Cache
	// Mirrors redirects a registry, for instance registry.k8s.io, to a URL prefix, for instance https://mirror.example/k8s. The image
	// keeps the name of the registry that was redirected.
	Mirrors map[string]string
	// InsecureRegistries are host[:port]s that may be spoken to by plain http; loopback addresses always may.
	InsecureRegistries []string
	// Dir is the recipe's folder, which archives and layouts are relative to.
	Dir string
	// Keychain finds credentials; nil means the user's own, of docker and podman.
	Keychain authn.Keychain
	// Engine serves "docker:" sources; nil means that there is none.
	Engine Engine
	// Roots are the certificate authorities to trust; nil means the system's.
	Roots *x509.CertPool
	// RetryWait is the wait before the first retry, growing for each further one; 0 means one second.
	RetryWait time.Duration

	mu           sync.Mutex
	repositories map[string]*repository
}

// Resolve finds the image, or in archives and layouts all images, that src names, and returns them for platform (os/arch) with the given
// role, sorted as found; archives that a pattern matches come in the order of their paths. Manifests and configs are in the cache
// afterwards; layers are left to Fetch. The error is a *recipes.InputError when the recipe names something that does not exist or does
// not fit.
func (s *Sources) Resolve(ctx context.Context, src recipes.ImageSource, platform string, role recipes.ImageRole) ([]recipes.LockedImage, error) {
	step := progress.Start(ctx, "[resolve] image %s", describe(src))
	images, err := s.resolveAll(ctx, src, platform, step)
	if err != nil {
		return nil, step.Done(fmt.Errorf("resolving image %s: %w", describe(src), err))
	}
	for i := range images {
		images[i].Role = role
		step.Log("%s@%s", images[i].Reference, images[i].Digest)
	}
	return images, step.Done(nil)
}

func (s *Sources) resolveAll(ctx context.Context, src recipes.ImageSource, platform string, step *progress.Step) ([]recipes.LockedImage, error) {
	list, err := src.Expand(s.Dir)
	if err != nil {
		return nil, recipes.InputErrorf("%v", err)
	}
	var all []recipes.LockedImage
	for _, one := range list {
		images, err := s.resolve(ctx, one, platform, step)
		if err != nil {
			return nil, err
		}
		for i := range images {
			images[i].Source = one
		}
		all = append(all, images...)
	}
	return all, nil
}

func (s *Sources) resolve(ctx context.Context, src recipes.ImageSource, platform string, step *progress.Step) ([]recipes.LockedImage, error) {
	if src.Registry != "" {
		image, err := s.resolveRegistry(ctx, src.Registry, platform)
		return []recipes.LockedImage{image}, err
	}
	local, err := s.openLocal(ctx, src)
	if err != nil {
		return nil, err
	}
	defer local.Close()
	images, err := local.resolve(s.Cache, platform)
	if err != nil {
		local.refused()
		return nil, err
	}
	if src.Docker == "" {
		return images, nil
	}
	// Saving again only to read the layers would take as long as reading all of them now.
	for _, image := range images {
		parts, err := readParts(s.Cache, image)
		if err != nil {
			return nil, err
		}
		for _, d := range parts.all() {
			if err := local.store(ctx, s.Cache, d, step); err != nil {
				return nil, err
			}
		}
	}
	return images, nil
}

// Fetch makes sure that every blob of the image is in the cache: target, platform manifest, config and layers. What is there already is
// not asked for again, and an interrupted download is resumed.
func (s *Sources) Fetch(ctx context.Context, image recipes.LockedImage) error {
	parts, err := s.parts(ctx, image)
	if err != nil {
		return fmt.Errorf("fetching image %s: %w", image.Reference, err)
	}
	var missing []ocispec.Descriptor
	var total int64
	for _, d := range parts.all() {
		if !s.Cache.Has(d.Digest) {
			missing = append(missing, d)
			total += d.Size
		} else if err := checkSize(s.Cache, d); err != nil {
			return fmt.Errorf("fetching image %s: %w", image.Reference, err)
		}
	}
	if len(missing) == 0 {
		return nil
	}
	step := progress.Start(ctx, "[fetch] image %s", image.Reference)
	step.Total(total)
	group, groupCtx := errgroup.WithContext(ctx)
	group.SetLimit(parallelBlobs)
	for _, d := range missing {
		group.Go(func() error { return s.blob(groupCtx, image, d, step) })
	}
	if err := group.Wait(); err != nil {
		return step.Done(fmt.Errorf("fetching image %s: %w", image.Reference, err))
	}
	return step.Done(nil)
}

// parts lists the image's blobs. Its manifests are fetched when the cache has lost them, by digest.
func (s *Sources) parts(ctx context.Context, image recipes.LockedImage) (imageParts, error) {
	for _, d := range []string{image.Digest, image.Manifest} {
		if err := s.manifest(ctx, image, d); err != nil {
			return imageParts{}, err
		}
	}
	return readParts(s.Cache, image)
}

// blob makes sure that one blob of the image, not a manifest, is in the cache, and counts its bytes on step.
func (s *Sources) blob(ctx context.Context, image recipes.LockedImage, d ocispec.Descriptor, step *progress.Step) error {
	if s.Cache.Has(d.Digest) {
		return nil
	}
	if image.Source == (recipes.ImageSource{}) {
		return fmt.Errorf("blob %s of %s is not in the cache any more; build again without the old lock", d.Digest, image.Reference)
	}
	if image.Source.Registry != "" {
		return s.registryBlob(fetch.WithStep(ctx, step), image, d)
	}
	return s.localBlob(ctx, image, d, step)
}

func (s *Sources) localBlob(ctx context.Context, image recipes.LockedImage, d ocispec.Descriptor, step *progress.Step) error {
	unlock, err := s.Cache.Lock(ctx, "local-"+d.Digest.Encoded())
	if err != nil {
		return err
	}
	defer unlock()
	if s.Cache.Has(d.Digest) {
		return nil
	}
	local, err := s.openLocal(ctx, image.Source)
	if err != nil {
		return err
	}
	defer local.Close()
	if image.Source.Docker == "" {
		return local.store(ctx, s.Cache, d, step)
	}
	parts, err := readParts(s.Cache, image)
	if err != nil {
		return err
	}
	// One export serves all blobs.
	for _, d := range parts.all() {
		if err := local.store(ctx, s.Cache, d, step); err != nil {
			return err
		}
	}
	return nil
}

// openLocal opens what lies on this host. The caller closes it.
func (s *Sources) openLocal(ctx context.Context, src recipes.ImageSource) (*local, error) {
	path := func(p string) string {
		if filepath.IsAbs(p) {
			return p
		}
		return filepath.Join(s.Dir, p)
	}
	switch {
	case src.Archive != "":
		return openArchive(ctx, s.Cache, path(src.Archive), src.Name)
	case src.Layout != "":
		return openLayout(path(src.Layout), src.Name)
	case src.Docker != "":
		if s.Engine == nil {
			return nil, errors.New("there is no Docker Engine; start it or set DOCKER_HOST")
		}
		return openEngine(ctx, s.Cache, s.Engine, src.Docker)
	default:
		return nil, recipes.InputErrorf("an image source needs one of registry, archive, docker, layout")
	}
}

// describe names a source as the recipe does.
func describe(src recipes.ImageSource) string {
	switch {
	case src.Name != "":
		return src.Name + " of " + describe(recipes.ImageSource{Archive: src.Archive, Layout: src.Layout})
	case src.Archive != "":
		return "archive " + src.Archive
	case src.Layout != "":
		return "layout " + src.Layout
	case src.Docker != "":
		return "docker " + src.Docker
	default:
		return src.Registry
	}
}
