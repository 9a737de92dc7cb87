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
	"github.com/nodeimg/nodeimg/preload"
	"github.com/nodeimg/nodeimg/recipes"
)

// Options say how to find an image. The zero value works.
type Options struct {
	// Platform chooses from an image for several platforms, as os/arch; empty means linux on the host's processor.
	Platform string
	// InsecureRegistries are host[:port]s that may be spoken to by plain http; loopback and private addresses always may.
	InsecureRegistries []string
	// Keychain finds credentials; nil means the user's (docker's and podman's).
	Keychain authn.Keychain
	// Cache is where a compressed archive is unpacked; nil means the user's.
	Cache *cache.Cache
}

func (o Options) platform() string {
	if o.Platform != "" {
		return o.Platform
	}
	return "linux/" + runtime.GOARCH
}

// Open finds an image, of which manifest and config can be read: target is an OCI layout folder, an OCI archive or docker-archive file, or else an image reference in a registry.
// Each may end in @sha256:…. The caller must close what is returned after the last use of the image. The error is a
// *recipes.InputError when target is none of these.
func Open(ctx context.Context, target string, o Options) (v1.Image, io.Closer, error) {
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

// nothing has nothing to close.
type nothing struct{}

// Close implements io.Closer.
func (nothing) Close() error { return nil }

// looksLikePath tells what can be no image reference.
func looksLikePath(s string) bool {
	return s == "" || filepath.IsAbs(s) || strings.HasPrefix(s, "./") || strings.HasPrefix(s, "../") || strings.HasSuffix(s, "/") ||
		strings.HasSuffix(s, ".tar")
}

func openArchive(ctx context.Context, path, digest string, o Options) (v1.Image, io.Closer, error) {
	c := o.Cache
	if c == nil {
		var err error
		if c, err = cache.Open(""); err != nil {
			return nil, nil, err
		}
	}
	files, closer, err := preload.ArchiveFiles(ctx, c, path)
	if err != nil {
		return nil, nil, err
	}
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
	platform, err := v1.ParsePlatform(o.platform())
	if err != nil {
		return nil, recipes.InputErrorf("platform %q: %v; expected os/arch, for instance linux/amd64", o.Platform, err)
	}
	keychain := o.Keychain
	if keychain == nil {
		keychain = credentials.Keychain()
	}
	img, err := remote.Image(ref, remote.WithContext(ctx), remote.WithAuthFromKeychain(keychain), remote.WithPlatform(*platform), remote.WithUserAgent("nodeimg"))
	if err != nil {
		if cause := context.Cause(ctx); cause != nil {
			err = cause
		}
		return nil, fmt.Errorf("inspecting %s: %w%s", target, err, advice(err, ref.Context().RegistryStr()))
	}
	return img, nil
}

// advice says what to try after a registry did not give an image.
func advice(err error, host string) string {
	var refused *transport.Error
	switch {
	case errors.As(err, &refused) && (refused.StatusCode == http.StatusUnauthorized || refused.StatusCode == http.StatusForbidden):
		return fmt.Sprintf("; check the name, or log in with docker login %s or podman login %s", host, host)
	case errors.As(err, &refused) && refused.StatusCode == http.StatusNotFound:
		return "; the registry does not have it, and there is no such file or folder"
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
