package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote"

	"github.com/nodeimg/nodeimg/test/internal/application"
	"github.com/nodeimg/nodeimg/test/internal/command"
)

// appReference is the user's image in the recipes of these tests.
const appReference = "docker.io/example/app:v1"

// pushApp puts the application into the registry under the path that a mirror of docker.io has.
func pushApp(t *testing.T, host string) {
	t.Helper()
	reference, err := name.ParseReference(host + "/" + strings.TrimPrefix(appReference, "docker.io/"))
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.Write(reference, application.For(t), remote.WithContext(t.Context())); err != nil {
		t.Fatal(err)
	}
}

// writeRecipe adds text to a shipped recipe's spec and writes it to a folder of the test.
func writeRecipe(t *testing.T, shipped, spec string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(command.Root(t), "recipes", shipped))
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), shipped)
	if err := os.WriteFile(file, append(text, spec...), 0o644); err != nil {
		t.Fatal(err)
	}
	return file
}
