package application

import (
	"context"
	"fmt"
	"os"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"

	"github.com/nodeimg/nodeimg/test/internal/archive"
	"github.com/nodeimg/nodeimg/test/internal/tools"
)

// Greeting is what the application answers.
const Greeting = "hello from a preloaded image"

// Image compiles the application and packs it as one layer with /app, for this machine's architecture.
func Image(ctx context.Context) (v1.Image, error) {
	file, err := tools.Command(ctx, "test/e2e/testdata/app")
	if err != nil {
		return nil, err
	}
	program, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("packing the application: %w", err)
	}
	layer, err := archive.Layer(archive.Program("app", program))
	if err != nil {
		return nil, err
	}
	image, err := mutate.AppendLayers(empty.Image, layer)
	if err != nil {
		return nil, fmt.Errorf("packing the application: %w", err)
	}
	id, err := layer.DiffID()
	if err != nil {
		return nil, fmt.Errorf("packing the application: %w", err)
	}
	return mutate.ConfigFile(image, &v1.ConfigFile{
		Architecture: "amd64", OS: "linux", Config: v1.Config{Entrypoint: []string{"/app"}, User: "65532:65532"},
		RootFS: v1.RootFS{Type: "layers", DiffIDs: []v1.Hash{id}},
	})
}

// For is Image for a test, which ends when it cannot be made.
func For(t testing.TB) v1.Image {
	t.Helper()
	image, err := Image(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return image
}
