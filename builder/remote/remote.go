package remote

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/url"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/moby/buildkit/client"
	_ "github.com/moby/buildkit/client/connhelper/dockercontainer"
	_ "github.com/moby/buildkit/client/connhelper/kubepod"
	_ "github.com/moby/buildkit/client/connhelper/podmancontainer"
	_ "github.com/moby/buildkit/client/connhelper/ssh"
	"github.com/moby/buildkit/util/grpcerrors"
	"google.golang.org/grpc/codes"

	"github.com/nodeimg/nodeimg/recipes"
)

// EnvironmentVariable names the variable with a builder's address, the same one that BuildKit's own buildctl reads.
const EnvironmentVariable = "BUILDKIT_HOST"

// dialTimeout bounds the first answer of the daemon.
const dialTimeout = 5 * time.Second

// schemes are the kinds of address and an example of each.
var schemes = map[string]string{
	"unix":             "unix:///run/buildkit/buildkitd.sock",
	"tcp":              "tcp://127.0.0.1:1234",
	"docker-container": "docker-container://NAME",
	"podman-container": "podman-container://NAME",
	"kube-pod":         "kube-pod://POD?namespace=NAMESPACE",
	"ssh":              "ssh://USER@HOST",
}

// Builder is a BuildKit daemon at an address.
type Builder struct {
	address string

	mu     sync.Mutex
	client *client.Client
	closed bool
}

// New returns the builder at address, for instance "unix:///run/buildkit/buildkitd.sock", without dialling it. A wrong address is a
// *recipes.InputError.
func New(address string) (*Builder, error) {
	fail := func(format string, args ...any) (*Builder, error) {
		return nil, recipes.InputErrorf("reading the builder's address %q: %s; --builder and %s take one of %s",
			address, fmt.Sprintf(format, args...), EnvironmentVariable, strings.Join(slices.Sorted(maps.Values(schemes)), ", "))
	}
	u, err := url.Parse(address)
	if err != nil {
		return fail("it is not a URL")
	}
	if _, known := schemes[u.Scheme]; !known {
		if u.Scheme == "" {
			return fail("it has no scheme")
		}
		return fail("the scheme %q is unknown", u.Scheme)
	}
	switch u.Scheme {
	case "unix":
		if u.Host != "" || !filepath.IsAbs(u.Path) {
			return fail("the socket's path must be absolute, so three slashes follow the colon")
		}
	case "tcp":
		if u.Hostname() == "" || u.Port() == "" {
			return fail("it needs a host and a port")
		}
	default:
		if u.Host == "" {
			return fail("it names nothing after %s://", u.Scheme)
		}
	}
	return &Builder{address: address}, nil
}

// String returns the address without a password.
func (b *Builder) String() string {
	u, err := url.Parse(b.address)
	if err != nil {
		return b.address
	}
	return u.Redacted()
}

// Connect dials the daemon and waits at most five seconds for its answer.
func (b *Builder) Connect(ctx context.Context) (*client.Client, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		return nil, fmt.Errorf("connecting to the builder %s: it has been closed", b)
	}
	if b.client != nil {
		return b.client, nil
	}
	c, err := client.New(ctx, b.address)
	if err != nil {
		return nil, fmt.Errorf("connecting to the builder %s: %w", b, err)
	}
	dialCtx, cancel := context.WithTimeoutCause(ctx, dialTimeout, fmt.Errorf("no answer within %s", dialTimeout))
	defer cancel()
	workers, err := c.ListWorkers(dialCtx)
	if err == nil && len(workers) == 0 {
		err = errors.New("it has no worker")
	}
	if err != nil {
		_ = c.Close()
		if ctx.Err() != nil {
			return nil, fmt.Errorf("connecting to the builder %s: %w", b, context.Cause(ctx))
		}
		if dialCtx.Err() != nil {
			err = context.Cause(dialCtx)
		}
		return nil, fmt.Errorf("connecting to the builder %s: %w; start a buildkitd there, give another address with --builder or %s, or give none so that nodeimg starts its own",
			b, err, EnvironmentVariable)
	}
	b.client = c
	return c, nil
}

// Explain names the builder when the connection to it has broken.
func (b *Builder) Explain(err error) error {
	if grpcerrors.Code(err) == codes.Unavailable {
		return fmt.Errorf("the connection to the builder %s broke, see its log: %w", b, err)
	}
	return err
}

// Close closes the connection; the daemon goes on.
func (b *Builder) Close() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.closed = true
	if b.client == nil {
		return nil
	}
	err := b.client.Close()
	b.client = nil
	if err != nil {
		return fmt.Errorf("closing the connection to the builder %s: %w", b, err)
	}
	return nil
}
