// Command registry serves, on port 5000 of all addresses, the images of the OCI layout /images under the names that they have there.
package main

import (
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/remote"
)

const address = "127.0.0.1:5000"

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run() error {
	listener, err := net.Listen("tcp", ":5000")
	if err != nil {
		return err
	}
	ended := make(chan error, 1)
	go func() { ended <- http.Serve(listener, registry.New(registry.Logger(log.New(io.Discard, "", 0)))) }()
	if err := fill(); err != nil {
		return err
	}
	fmt.Println("ready")
	return <-ended
}

// fill pushes the images.
func fill() error {
	index, err := layout.ImageIndexFromPath("/images")
	if err != nil {
		return err
	}
	manifest, err := index.IndexManifest()
	if err != nil {
		return err
	}
	if len(manifest.Manifests) == 0 {
		return errors.New("the layout is empty")
	}
	for _, descriptor := range manifest.Manifests {
		image, err := index.Image(descriptor.Digest)
		if err != nil {
			return err
		}
		reference, err := name.ParseReference(address + "/" + descriptor.Annotations["org.opencontainers.image.ref.name"])
		if err != nil {
			return err
		}
		if err := remote.Write(reference, image); err != nil {
			return err
		}
	}
	return nil
}
