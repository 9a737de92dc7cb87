// Package credentials finds the user's registry credentials where docker and podman keep them: docker's configuration with its
// credential helpers first, then podman's auth.json files. Nothing is stored or logged here. Everything that talks to a registry
// asks this one keychain.
package credentials

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"

	"github.com/docker/cli/cli/config"
	"github.com/docker/cli/cli/config/types"
	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
)

// Keychain returns the user's keychain: the first of docker's and podman's that knows the registry, else anonymous.
func Keychain() authn.Keychain {
	return discreet{authn.NewMultiKeychain(authn.DefaultKeychain, podman{})}
}

// discreet keeps secrets out of errors: where a credential helper fails, docker's library repeats all that the helper has printed.
type discreet struct{ keychain authn.Keychain }

// Resolve implements authn.Keychain.
func (d discreet) Resolve(target authn.Resource) (authn.Authenticator, error) {
	return d.ResolveContext(context.Background(), target)
}

// ResolveContext implements authn.ContextKeychain.
func (d discreet) ResolveContext(ctx context.Context, target authn.Resource) (authn.Authenticator, error) {
	found, err := authn.Resolve(ctx, d.keychain, target)
	if err != nil && strings.Contains(strings.ToLower(err.Error()), `"secret"`) {
		return nil, errors.New("the credential helper failed; what it printed is not shown, because there is a secret in it")
	}
	return found, err
}

// podman is podman's keychain (containers-auth.json(5)): unlike go-containerregistry's default one it is asked also where docker has
// a configuration file that does not know the registry, and it knows entries for a namespace of a registry.
type podman struct{}

// Resolve implements authn.Keychain.
func (p podman) Resolve(target authn.Resource) (authn.Authenticator, error) {
	return p.ResolveContext(context.Background(), target)
}

// ResolveContext implements authn.ContextKeychain.
func (podman) ResolveContext(_ context.Context, target authn.Resource) (authn.Authenticator, error) {
	for _, file := range authFiles() {
		f, err := os.Open(file)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("reading registry credentials: %w", err)
		}
		auths, err := config.LoadFromReader(f)
		_ = f.Close()
		if err != nil {
			return nil, fmt.Errorf("reading registry credentials in %s: %w", file, err)
		}
		for _, key := range keys(target) {
			// GetAuthConfig replaces docker.io by docker's key for it, which podman does not use.
			found, ok := auths.AuthConfigs[key]
			if !ok {
				if found, err = auths.GetAuthConfig(key); err != nil {
					return nil, fmt.Errorf("reading registry credentials for %s: %w", key, err)
				}
			}
			// GetAuthConfig fills in the address that was asked for, also when there is no entry.
			found.ServerAddress = ""
			if found != (types.AuthConfig{}) {
				return authn.FromConfig(authn.AuthConfig{
					Username: found.Username, Password: found.Password, Auth: found.Auth,
					IdentityToken: found.IdentityToken, RegistryToken: found.RegistryToken,
				}), nil
			}
		}
	}
	return authn.Anonymous, nil
}

// authFiles are the places where podman looks, in its order.
func authFiles() []string {
	var files []string
	if file := os.Getenv("REGISTRY_AUTH_FILE"); file != "" {
		files = append(files, file)
	}
	if dir := os.Getenv("XDG_RUNTIME_DIR"); dir != "" {
		files = append(files, filepath.Join(dir, "containers", "auth.json"))
	}
	if dir, err := os.UserConfigDir(); err == nil {
		files = append(files, filepath.Join(dir, "containers", "auth.json"))
	}
	return files
}

// keys are the names under which an entry for target may be kept, the most specific first.
func keys(target authn.Resource) []string {
	full := target.String()
	if rest, ok := strings.CutPrefix(full, name.DefaultRegistry); ok {
		full = "docker.io" + rest
	}
	var keys []string
	for ; full != "." && full != "/"; full = path.Dir(full) {
		keys = append(keys, full)
	}
	if target.RegistryStr() == name.DefaultRegistry {
		keys = append(keys, authn.DefaultAuthKey)
	}
	return keys
}
