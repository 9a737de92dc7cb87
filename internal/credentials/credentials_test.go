package credentials

import (
	"encoding/base64"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
)

func TestKeychain(t *testing.T) {
	home := t.TempDir()
	t.Setenv("HOME", home)
	t.Setenv("XDG_CONFIG_HOME", "")
	t.Setenv("XDG_RUNTIME_DIR", filepath.Join(home, "run"))
	t.Setenv("REGISTRY_AUTH_FILE", "")
	t.Setenv("DOCKER_CONFIG", filepath.Join(home, ".docker"))
	write := func(file, key, user string) {
		t.Helper()
		file = filepath.Join(home, file)
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		auth := base64.StdEncoding.EncodeToString([]byte(user + ":secret"))
		if err := os.WriteFile(file, fmt.Appendf(nil, `{"auths":{%q:{"auth":%q}}}`, key, auth), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(".docker/config.json", "docker.example.com", "docker-user")
	write("run/containers/auth.json", "podman.example.com/team", "podman-user")
	write(".config/containers/auth.json", "docker.io", "hub-user")
	for _, test := range []struct{ repository, user string }{
		{"docker.example.com/a", "docker-user"},
		{"podman.example.com/team/a", "podman-user"},
		{"docker.io/library/debian", "hub-user"},
		{"unknown.example.com/a", ""},
	} {
		t.Run(test.repository, func(t *testing.T) {
			repository, err := name.NewRepository(test.repository)
			if err != nil {
				t.Fatal(err)
			}
			found, err := authn.Resolve(t.Context(), Keychain(), repository)
			if err != nil {
				t.Fatal(err)
			}
			got, err := found.Authorization()
			if err != nil {
				t.Fatal(err)
			}
			if got.Username != test.user {
				t.Errorf("user %q, want %q", got.Username, test.user)
			}
		})
	}
}

func TestKeychainNamesTheBrokenFile(t *testing.T) {
	home := t.TempDir()
	t.Setenv("HOME", home)
	t.Setenv("XDG_RUNTIME_DIR", "")
	t.Setenv("DOCKER_CONFIG", filepath.Join(home, ".docker"))
	file := filepath.Join(home, "auth.json")
	t.Setenv("REGISTRY_AUTH_FILE", file)
	if err := os.WriteFile(file, []byte(`{"auths":`), 0o600); err != nil {
		t.Fatal(err)
	}
	repository, err := name.NewRepository("example.com/a")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := authn.Resolve(t.Context(), Keychain(), repository); err == nil {
		t.Fatal("a broken file was taken for an empty one")
	}
}
