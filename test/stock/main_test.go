package stock

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/tarball"

	"github.com/nodeimg/nodeimg/test/internal/application"
	"github.com/nodeimg/nodeimg/test/internal/engine"
	"github.com/nodeimg/nodeimg/test/internal/tools"
)

const (
	// nodeImage is the node image in the Engine: recipes/k8s-node-source.yaml with the test's application baked in.
	nodeImage = "nodeimg-stock/k8s-node:test"
	// appImage is the application in the node image.
	appImage = "docker.io/example/app:v1"
)

// shared is what all tests use.
var shared struct {
	// programs is a folder with nodeimg, buildkitd, kind and kubectl; kubectl is the one of the node image.
	programs string
	engine   *engine.Engine
	inside   *namespace
}

func TestMain(m *testing.M) {
	os.Exit(run(m))
}

func run(m *testing.M) (status int) {
	dir, err := os.MkdirTemp("", "nodeimg-stock-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	defer func() {
		if shared.engine == nil {
			return
		}
		if err := shared.engine.Stop(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			status = 1
		}
	}()
	if err := prepare(context.Background(), dir); err != nil {
		fmt.Fprintln(os.Stderr, "preparing the Engine and its node image:", err)
		return 1
	}
	return m.Run()
}

// prepare compiles the programs, starts the Engine and builds the node image in it. Compiling and building may need the host's network.
func prepare(ctx context.Context, dir string) error {
	shared.programs = filepath.Join(dir, "programs")
	if err := os.Mkdir(shared.programs, 0o755); err != nil {
		return err
	}
	for name, compile := range map[string]func(context.Context) (string, error){
		"buildkitd": tools.Buildkitd, "kind": tools.Kind,
		"nodeimg": func(ctx context.Context) (string, error) { return tools.Command(ctx, "cmd/nodeimg") },
	} {
		program, err := compile(ctx)
		if err != nil {
			return err
		}
		if err := os.Symlink(program, filepath.Join(shared.programs, name)); err != nil {
			return err
		}
	}
	// The Engine starts where there is no network.
	if _, err := tools.Engine(ctx); err != nil {
		return err
	}
	var err error
	if shared.inside, err = newNamespace(); err != nil {
		return err
	}
	if err := shared.inside.do(func() error {
		// With the default bridge of a Docker Engine, on which docker run puts containers.
		shared.engine, err = engine.Start(ctx, engine.Options{Network: engine.HostNetwork, Flags: []string{"--bridge="}})
		return err
	}); err != nil {
		return err
	}
	recipe, err := writeRecipe(ctx, dir)
	if err != nil {
		return err
	}
	if err := execute(ctx, filepath.Join(shared.programs, "nodeimg"), "build", recipe, "-o", "type=docker", "-t", nodeImage); err != nil {
		return err
	}
	const container = "nodeimg-stock-kubectl"
	for _, args := range [][]string{
		{"create", "--name", container, nodeImage},
		{"cp", container + ":/usr/bin/kubectl", filepath.Join(shared.programs, "kubectl")},
		{"rm", container},
	} {
		if err := execute(ctx, "docker", args...); err != nil {
			return err
		}
	}
	return nil
}

// execute runs a program outside of the Engine's network namespace.
func execute(ctx context.Context, program string, args ...string) error {
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Env = environment()
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w\n%s", cmd, err, out)
	}
	return nil
}

// environment is that of all programs: the Engine, and where nodeimg finds buildkitd.
func environment() []string {
	return append(os.Environ(), "DOCKER_HOST="+shared.engine.Host(), "PATH="+shared.programs+":"+os.Getenv("PATH"))
}

// writeRecipe writes the shipped recipe with the application, which lies in an archive, to dir.
func writeRecipe(ctx context.Context, dir string) (string, error) {
	image, err := application.Image(ctx)
	if err != nil {
		return "", err
	}
	tag, err := name.NewTag(appImage)
	if err != nil {
		return "", err
	}
	archive := filepath.Join(dir, "app.tar")
	if err := tarball.WriteToFile(archive, tag, image); err != nil {
		return "", err
	}
	root, err := tools.Root(ctx)
	if err != nil {
		return "", err
	}
	text, err := os.ReadFile(filepath.Join(root, "recipes", "k8s-node-source.yaml"))
	if err != nil {
		return "", err
	}
	recipe := filepath.Join(dir, "recipe.yaml")
	return recipe, os.WriteFile(recipe, fmt.Appendf(text, "  preload:\n    images: [{archive: %q}]\n", archive), 0o644)
}
