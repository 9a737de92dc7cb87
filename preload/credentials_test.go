package preload

import (
	"encoding/base64"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/nodeimg/nodeimg/recipes"
)

const password = "correct-horse-battery-staple"

// TestCredentials pulls from a private registry with credentials from every place where docker and podman keep them, and looks for the
// password in what is left and said.
func TestCredentials(t *testing.T) {
	// A helper is a program beside docker's: it reads the server's name and prints a user and a secret (docker-credential-helpers).
	const helper = "#!/bin/sh\n[ \"$1\" = get ] || exit 1\nread -r server || true\ncase $server in\n%s*) printf '{\"ServerURL\":\"%%s\",\"Username\":\"ann\",\"Secret\":\"%s\"}' \"$server\" ;;\n" +
		"*) echo 'credentials not found in native keychain'; exit 1 ;;\nesac\n"
	auth := func(key, secret string) []byte {
		return fmt.Appendf(nil, `{"auths":{%q:{"auth":%q}}}`, key, base64.StdEncoding.EncodeToString([]byte("ann:"+secret)))
	}
	for name, prepare := range map[string]func(t *testing.T, home, host, secret string){
		"docker config": func(t *testing.T, home, host, secret string) {
			writeFile(t, filepath.Join(home, ".docker", "config.json"), auth(host, secret))
		},
		"docker config with a URL": func(t *testing.T, home, host, secret string) {
			writeFile(t, filepath.Join(home, ".docker", "config.json"), auth("http://"+host+"/v2/", secret))
		},
		"docker credential helper": func(t *testing.T, home, host, secret string) {
			program(t, home, "docker-credential-nodeimg-test", fmt.Sprintf(helper, host, secret))
			writeFile(t, filepath.Join(home, ".docker", "config.json"), fmt.Appendf(nil, `{"credHelpers":{%q:"nodeimg-test"}}`, host))
		},
		"docker credential store": func(t *testing.T, home, host, secret string) {
			program(t, home, "docker-credential-nodeimg-test", fmt.Sprintf(helper, host, secret))
			writeFile(t, filepath.Join(home, ".docker", "config.json"), []byte(`{"credsStore":"nodeimg-test"}`))
		},
		"podman's REGISTRY_AUTH_FILE": func(t *testing.T, home, host, secret string) {
			t.Setenv("REGISTRY_AUTH_FILE", filepath.Join(home, "auth.json"))
			writeFile(t, filepath.Join(home, "auth.json"), auth(host, secret))
		},
		"podman's runtime folder": func(t *testing.T, home, host, secret string) {
			t.Setenv("XDG_RUNTIME_DIR", filepath.Join(home, "run"))
			writeFile(t, filepath.Join(home, "run", "containers", "auth.json"), auth(host, secret))
		},
		"podman's configuration, by repository, beside docker's": func(t *testing.T, home, host, secret string) {
			t.Setenv("XDG_CONFIG_HOME", filepath.Join(home, "config"))
			writeFile(t, filepath.Join(home, "config", "containers", "auth.json"), auth(host+"/a", secret))
			writeFile(t, filepath.Join(home, ".docker", "config.json"), auth("other.example.com", "x"))
		},
		"podman's credential helper": func(t *testing.T, home, host, secret string) {
			program(t, home, "docker-credential-nodeimg-test", fmt.Sprintf(helper, host, secret))
			t.Setenv("REGISTRY_AUTH_FILE", filepath.Join(home, "auth.json"))
			writeFile(t, filepath.Join(home, "auth.json"), fmt.Appendf(nil, `{"credHelpers":{%q:"nodeimg-test"}}`, host))
		},
	} {
		t.Run(name, func(t *testing.T) {
			p, s := startRegistry(t), newSources(t)
			t.Setenv("XDG_CONFIG_HOME", "")
			src := recipes.ImageSource{Registry: p.push(t, "a/b:1", newImage(t, "amd64", 2, 1000))}
			p.set(private)
			home := os.Getenv("HOME")
			prepare(t, home, p.host, password)
			locked := mustResolve(t, s, src)
			mustFetch(t, s, locked)
			absent(t, s.Cache.Root(), password)

			prepare(t, home, p.host, password+"-old")
			again := &Sources{Cache: newCache(t), RetryWait: s.RetryWait}
			_, err := again.Resolve(t.Context(), src, platform, recipes.RoleUser)
			if err == nil || !strings.Contains(err.Error(), "docker login "+p.host) {
				t.Errorf("with an old password the error is %v", err)
			} else if strings.Contains(err.Error(), password) || strings.Contains(err.Error(), base64.StdEncoding.EncodeToString([]byte("ann:" + password))[:20]) {
				t.Errorf("the error holds the password: %v", err)
			}
		})
	}
}

// private answers only those who know the password.
func private(w http.ResponseWriter, r *http.Request, _ http.Handler) bool {
	if user, given, ok := r.BasicAuth(); ok && user == "ann" && given == password {
		return false
	}
	w.Header().Set("WWW-Authenticate", `Basic realm="private"`)
	w.WriteHeader(http.StatusUnauthorized)
	return true
}

// program puts an executable into a folder that is first in PATH.
func program(t *testing.T, home, name, text string) {
	t.Helper()
	dir := filepath.Join(home, "bin")
	writeFile(t, filepath.Join(dir, name), []byte(text))
	if err := os.Chmod(filepath.Join(dir, name), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
}

// absent looks for the secret, plain and as it goes over the wire, in every file below dir.
func absent(t *testing.T, dir, secret string) {
	t.Helper()
	encoded := base64.StdEncoding.EncodeToString([]byte("ann:" + secret))
	count := 0
	err := filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || !entry.Type().IsRegular() {
			return err
		}
		b, err := os.ReadFile(path)
		count++
		if strings.Contains(string(b), secret) || strings.Contains(string(b), encoded) {
			t.Errorf("%s holds the password", path)
		}
		return err
	})
	if err != nil || count == 0 {
		t.Errorf("looked into %d files: %v", count, err)
	}
}

// TestFailingHelperKeepsItsSecret has a helper that fails after it has printed what must not be shown.
func TestFailingHelperKeepsItsSecret(t *testing.T) {
	p, s := startRegistry(t), newSources(t)
	src := recipes.ImageSource{Registry: p.push(t, "a/b:1", newImage(t, "amd64", 1, 1000))}
	p.set(private)
	home := os.Getenv("HOME")
	program(t, home, "docker-credential-nodeimg-test", "#!/bin/sh\necho '{\"Username\":\"ann\",\"Secret\":\""+password+"\"}'\nexit 1\n")
	writeFile(t, filepath.Join(home, ".docker", "config.json"), fmt.Appendf(nil, `{"credHelpers":{%q:"nodeimg-test"}}`, p.host))
	_, err := s.Resolve(t.Context(), src, platform, recipes.RoleUser)
	if err == nil || strings.Contains(err.Error(), password) || !strings.Contains(err.Error(), p.host) {
		t.Errorf("the error is %v", err)
	}
	// What a helper says in words helps the user.
	program(t, home, "docker-credential-nodeimg-test", "#!/bin/sh\necho 'the vault is locked'\nexit 1\n")
	again := &Sources{Cache: newCache(t), RetryWait: s.RetryWait}
	_, err = again.Resolve(t.Context(), src, platform, recipes.RoleUser)
	if err == nil || !strings.Contains(err.Error(), "the vault is locked") || !strings.Contains(err.Error(), "credentials") {
		t.Errorf("the error is %v", err)
	}
}
