package dockerengine

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"strings"

	"github.com/docker/cli/cli/config"
	"github.com/docker/cli/cli/connhelper"
	"github.com/docker/docker/client"
	"github.com/opencontainers/go-digest"
)

// endpoint is where an Engine listens.
type endpoint struct {
	// host is an address as in DOCKER_HOST: unix://, tcp://, npipe:// or ssh://; empty means the default socket.
	host string
	// context is the docker context that named the host; empty when it came from the environment.
	context string
	// tls is the folder with ca.pem, cert.pem and key.pem; empty means no TLS.
	tls string
}

// String names the endpoint for errors.
func (e endpoint) String() string {
	host := e.host
	if host == "" {
		host = client.DefaultDockerHost
	}
	if e.context != "" {
		return fmt.Sprintf("%s (docker context %q)", host, e.context)
	}
	return host
}

// endpointFromEnvironment chooses as the docker command does: DOCKER_HOST, DOCKER_CONTEXT, the current context of its configuration
// file, the default socket.
func endpointFromEnvironment() (endpoint, error) {
	if host := os.Getenv(client.EnvOverrideHost); host != "" {
		found := endpoint{host: host}
		if os.Getenv(client.EnvTLSVerify) != "" {
			found.tls = os.Getenv(client.EnvOverrideCertPath)
			if found.tls == "" {
				found.tls = config.Dir()
			}
		}
		return found, nil
	}
	name := os.Getenv("DOCKER_CONTEXT")
	if name == "" {
		file, err := config.Load("")
		if err != nil {
			return endpoint{}, fmt.Errorf("reading the docker command's configuration: %w", err)
		}
		name = file.CurrentContext
	}
	if name == "" || name == "default" {
		return endpoint{}, nil
	}
	return readContext(filepath.Join(config.Dir(), "contexts"), name)
}

// readContext reads a docker context from the docker command's own store (docker/cli cli/context/store: the folder's name is the
// sha256 of the context's name).
func readContext(dir, name string) (endpoint, error) {
	id := digest.FromString(name).Encoded()
	b, err := os.ReadFile(filepath.Join(dir, "meta", id, "meta.json"))
	if errors.Is(err, fs.ErrNotExist) {
		return endpoint{}, fmt.Errorf("docker context %q does not exist; docker context ls lists those that do", name)
	}
	if err != nil {
		return endpoint{}, fmt.Errorf("reading docker context %q: %w", name, err)
	}
	var meta struct {
		Endpoints struct {
			Docker struct{ Host string } `json:"docker"`
		}
	}
	if err := json.Unmarshal(b, &meta); err != nil {
		return endpoint{}, fmt.Errorf("reading docker context %q: %w", name, err)
	}
	found := endpoint{host: meta.Endpoints.Docker.Host, context: name}
	if tls := filepath.Join(dir, "tls", id, "docker"); isDir(tls) {
		found.tls = tls
	}
	return found, nil
}

func isDir(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.IsDir()
}

// options turn the endpoint into the client's options.
func (e endpoint) options() ([]client.Opt, error) {
	if strings.HasPrefix(e.host, "ssh://") {
		remote, err := connhelper.GetConnectionHelper(e.host)
		if err != nil {
			return nil, err
		}
		transport := &http.Transport{DialContext: remote.Dialer}
		return []client.Opt{
			client.WithHTTPClient(&http.Client{Transport: transport}), client.WithHost(remote.Host), client.WithDialContext(remote.Dialer),
		}, nil
	}
	options := []client.Opt{client.WithVersionFromEnv()}
	if e.tls != "" {
		options = append(options, client.WithTLSClientConfig(
			filepath.Join(e.tls, "ca.pem"), filepath.Join(e.tls, "cert.pem"), filepath.Join(e.tls, "key.pem")))
	}
	if e.host != "" {
		options = append(options, client.WithHost(e.host))
	}
	return options, nil
}
