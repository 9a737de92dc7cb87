package inspect

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"

	"github.com/distribution/reference"
	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"

	"github.com/nodeimg/nodeimg/internal/cache"
	"github.com/nodeimg/nodeimg/internal/credentials"
	"github.com/nodeimg/nodeimg/internal/dockerengine"
	"github.com/nodeimg/nodeimg/preload"
	"github.com/nodeimg/nodeimg/recipes"
)

// Options say how to find an image. The zero value works.
type Options struct {
	// Platform chooses from an image for several platforms, as os/arch; empty means linux on the host's processor.
	Platform string
	// NoGuess refuses an image for several platforms when Platform is empty.
	NoGuess bool
	// InsecureRegistries are host[:port]s that may be spoken to by plain http; loopback and private addresses always may.
	InsecureRegistries []string
	// Keychain finds credentials; nil means the user's (docker's and podman's).
	Keychain authn.Keychain
	// Cache is where a compressed archive and an image of the Docker Engine are unpacked; nil means the user's.
	Cache *cache.Cache
	// Engine serves "docker:" targets; nil means the one that the environment names.
	Engine preload.Engine
}

func (o Options) platform() string {
	if o.Platform != "" || o.NoGuess {
		return o.Platform
	}
	return "linux/" + runtime.GOARCH
}

// DockerPrefix is what a target begins with that is an image of the local Docker Engine.
const DockerPrefix = "docker:"

// Open finds an image: target is "docker:" and the name of an image in the local Docker Engine, an OCI layout folder, an OCI archive or
// docker-archive file, or else an image reference in a registry. Folders, files and references may end in @sha256:…. Of an image in a
// registry only manifest and config are read now, and layers when somebody asks for them; what is read is checked against its digest. The
// caller must close what is returned after the last use of the image. The error is a *recipes.InputError when target is none of these.
func Open(ctx context.Context, target string, o Options) (v1.Image, io.Closer, error) {
	if name, ok := strings.CutPrefix(target, DockerPrefix); ok {
		return openEngine(ctx, name, o)
	}
	path, digest := target, ""
	info, err := os.Stat(path)
	if before, after, found := strings.Cut(target, "@sha256:"); err != nil && found {
		path, digest = before, "sha256:"+after
		info, err = os.Stat(path)
	}
	switch {
	case err == nil && info.IsDir():
		img, err := openFiles(os.DirFS(path), path, digest, o.platform())
		return img, nothing{}, err
	case err == nil:
		return openArchive(ctx, path, digest, o)
	case looksLikePath(path):
		return nil, nil, recipes.InputErrorf("there is no file or folder %s", path)
	default:
		img, err := openRemote(ctx, target, o)
		return img, nothing{}, err
	}
}

// InRegistry says whether Open looks for the target in a registry.
func InRegistry(target string) bool {
	if strings.HasPrefix(target, DockerPrefix) {
		return false
	}
	path, _, _ := strings.Cut(target, "@sha256:")
	_, err := os.Stat(path)
	return err != nil && !looksLikePath(path)
}

// nothing has nothing to close.
type nothing struct{}

// Close implements io.Closer.
func (nothing) Close() error { return nil }

// looksLikePath tells what can be no image reference.
func looksLikePath(s string) bool {
	return s == "" || filepath.IsAbs(s) || strings.HasPrefix(s, "./") || strings.HasPrefix(s, "../") || strings.HasSuffix(s, "/") ||
		strings.HasSuffix(s, ".tar")
}

// store is where large files are unpacked.
func (o Options) store() (*cache.Cache, error) {
	if o.Cache != nil {
		return o.Cache, nil
	}
	return cache.Open("")
}

func openEngine(ctx context.Context, name string, o Options) (v1.Image, io.Closer, error) {
	if _, err := reference.ParseNormalizedNamed(name); err != nil {
		return nil, nil, recipes.InputErrorf("%s%s: %q is no image name: %v", DockerPrefix, name, name, err)
	}
	c, err := o.store()
	if err != nil {
		return nil, nil, err
	}
	engine := o.Engine
	if engine == nil {
		opened, err := dockerengine.Open(ctx)
		if err != nil {
			return nil, nil, err
		}
		defer opened.Close()
		engine = opened
	}
	files, closer, err := preload.EngineFiles(ctx, c, engine, name)
	if err != nil {
		return nil, nil, err
	}
	return openedFiles(files, closer, DockerPrefix+name, "", o)
}

func openArchive(ctx context.Context, path, digest string, o Options) (v1.Image, io.Closer, error) {
	c, err := o.store()
	if err != nil {
		return nil, nil, err
	}
	files, closer, err := preload.ArchiveFiles(ctx, c, path)
	if err != nil {
		return nil, nil, err
	}
	return openedFiles(files, closer, path, digest, o)
}

// openedFiles takes closer over.
func openedFiles(files fs.FS, closer io.Closer, path, digest string, o Options) (v1.Image, io.Closer, error) {
	img, err := openFiles(files, path, digest, o.platform())
	if err != nil {
		return nil, nil, errors.Join(err, closer.Close())
	}
	return img, closer, nil
}

func openRemote(ctx context.Context, target string, o Options) (v1.Image, error) {
	named, err := reference.ParseNormalizedNamed(target)
	if err != nil {
		return nil, recipes.InputErrorf("%q is no image reference, and there is no such file or folder: %v", target, err)
	}
	var options []name.Option
	if slices.Contains(o.InsecureRegistries, reference.Domain(named)) {
		options = append(options, name.Insecure)
	}
	ref, err := name.ParseReference(reference.TagNameOnly(named).String(), options...)
	if err != nil {
		return nil, recipes.InputErrorf("%q is no image reference, and there is no such file or folder: %v", target, err)
	}
	keychain := o.Keychain
	if keychain == nil {
		keychain = credentials.Keychain()
	}
	img, err := remoteImage(ref, target, o, remote.WithContext(ctx), remote.WithAuthFromKeychain(keychain), remote.WithUserAgent("nodeimg"))
	var input *recipes.InputError
	if err != nil && !errors.As(err, &input) {
		if cause := context.Cause(ctx); cause != nil {
			err = cause
		}
		return nil, fmt.Errorf("inspecting %s: %w%s", target, err, advice(err, ref.Context().RegistryStr()))
	}
	return img, err
}

// remoteImage asks for what ref names and, where that is an index, for the platform's image in it.
func remoteImage(ref name.Reference, target string, o Options, options ...remote.Option) (v1.Image, error) {
	if text := o.platform(); text != "" {
		platform, err := v1.ParsePlatform(text)
		if err != nil || platform.OS == "" || platform.Architecture == "" {
			return nil, recipes.InputErrorf("platform %q: expected os/arch, for instance linux/amd64", o.Platform)
		}
		return remote.Image(ref, append(options, remote.WithPlatform(*platform))...)
	}
	found, err := remote.Get(ref, options...)
	if err != nil {
		return nil, err
	}
	if !found.MediaType.IsIndex() {
		return found.Image()
	}
	index, err := found.ImageIndex()
	if err != nil {
		return nil, err
	}
	manifest, err := index.IndexManifest()
	if err != nil {
		return nil, err
	}
	var images []v1.Descriptor
	for _, entry := range manifest.Manifests {
		if entry.MediaType.IsImage() && !isAttestation(entry) {
			images = append(images, entry)
		}
	}
	chosen, err := choose(images, target, "", "")
	if err != nil {
		return nil, err
	}
	return index.Image(chosen.Digest)
}

// advice says what to try after a registry did not give an image.
func advice(err error, host string) string {
	var refused *transport.Error
	switch {
	case errors.As(err, &refused) && (refused.StatusCode == http.StatusUnauthorized || refused.StatusCode == http.StatusForbidden):
		return fmt.Sprintf("; check the name, or log in with docker login %s or podman login %s", host, host)
	case errors.As(err, &refused) && refused.StatusCode == http.StatusNotFound:
		return "; the registry does not have it, and there is no such file or folder; an image of the Docker Engine is written " + DockerPrefix + "NAME"
	case errors.As(err, &refused) && refused.StatusCode == http.StatusTooManyRequests:
		return "; the registry limits requests, wait and run again"
	case strings.Contains(err.Error(), "server gave HTTP response to HTTPS client"):
		return fmt.Sprintf("; the registry speaks plain http, allow that with --insecure-registry %s", host)
	default:
		return ""
	}
}

// readLimited reads a file that is meant to be small: an index, a manifest, a config.
func readLimited(files fs.FS, name string) ([]byte, error) {
	const limit = 16 << 20
	f, err := files.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	content, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err != nil {
		return nil, err
	}
	if len(content) > limit {
		return nil, fmt.Errorf("%s is longer than %d bytes", name, limit)
	}
	return content, nil
}
