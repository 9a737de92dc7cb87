package conformance

import (
	"context"
	"fmt"
	"io"
	"log"
	"net/http/httptest"
	"slices"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
)

// table is every image of the suite.
var table = slices.Concat(deletions, files, manifests)

// registryName stands for the registry in recipes and in nodes; a mirror says where it really is, so that nothing depends on the port.
const registryName = "conformance.test"

// path is the row's name in the registry.
func (r row) path(s seeds) string { return string(s) + "/" + r.name + ":1" }

// reference is the row's name in nodes.
func (r row) reference(s seeds) string { return registryName + "/" + r.path(s) }

// serve starts a registry on loopback that holds the rows, and returns its host:port. The caller must call stop.
func serve(ctx context.Context, rows []row) (host string, stop func(), err error) {
	server := httptest.NewServer(registry.New(registry.Logger(log.New(io.Discard, "", 0))))
	defer func() {
		if err != nil {
			server.Close()
		}
	}()
	host = strings.TrimPrefix(server.URL, "http://")
	pusher, err := remote.NewPusher(remote.WithNondistributable)
	if err != nil {
		return "", nil, err
	}
	for _, s := range []seeds{fixed, fresh} {
		for _, r := range rows {
			made, err := r.image(s)
			if err != nil {
				return "", nil, err
			}
			ref, err := name.NewTag(host + "/" + r.path(s))
			if err != nil {
				return "", nil, err
			}
			if err := push(ctx, pusher, ref, made); err != nil {
				return "", nil, fmt.Errorf("pushing %s: %w", r.name, err)
			}
		}
	}
	return host, server.Close, nil
}

func push(ctx context.Context, pusher *remote.Pusher, ref name.Reference, made remote.Taggable) error {
	if image, ok := made.(v1.Image); ok {
		// The pusher leaves out what must not be passed on; a registry that everybody may read has it all the same.
		layers, err := image.Layers()
		if err != nil {
			return err
		}
		for _, l := range layers {
			if err := pusher.Upload(ctx, ref.Context(), l); err != nil {
				return err
			}
		}
	}
	return pusher.Push(ctx, ref, made)
}
