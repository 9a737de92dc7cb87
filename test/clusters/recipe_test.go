package clusters

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/nodeimg/nodeimg/test/internal/command"
)

// TestRecipe makes clusters of recipes: the shipped one, whose image the Engine has, and one that has to be built first, once.
func TestRecipe(t *testing.T) {
	l := clusters(t)
	shipped := filepath.Join(command.Root(t), "recipes", "k8s-node-source.yaml")
	text, err := os.ReadFile(shipped)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	recipe := filepath.Join(dir, "own.txt") // A recipe is known by what it is.
	write(t, recipe, string(text)+"  run: [touch /made-by-up]\n")
	write(t, filepath.Join(dir, "cluster.yaml"), "apiVersion: nodeimg.dev/v1alpha1\nkind: Cluster\nmetadata: {name: recipe}\nspec: {image: own.txt, privileged: true}\n")
	write(t, filepath.Join(dir, "broken.yaml"), string(text)+"  rum: []\n")

	l.refused(2, "spec.rum: unknown field", "up", filepath.Join(dir, "broken.yaml"), "--privileged")
	const there = "the Docker Engine has it"
	reached := command.Stopwatch(t)
	for _, c := range []struct {
		args  []string
		built bool
	}{
		{[]string{"up", shipped, "--name", "recipe", "--privileged"}, false},
		{[]string{"up", "--config", filepath.Join(dir, "cluster.yaml")}, true},
		{[]string{"up", recipe, "--name", "recipe", "--privileged"}, false},
	} {
		status, _, said := l.run(append(c.args, "--progress", "plain")...)
		if status != 0 {
			t.Fatalf("nodeimg %q: exit status %d\n%s", c.args, status, said)
		}
		if strings.Contains(said, there) == c.built {
			t.Errorf("nodeimg %q: built %v, want %v:\n%s", c.args, !c.built, c.built, said)
		}
		reached(strings.Join(c.args, " "))
		if c.args[1] != shipped {
			l.docker("exec", "recipe-control-plane-1", "test", "-e", "/made-by-up")
		}
		l.must("down", "--name", "recipe")
	}
	for _, image := range strings.Fields(l.docker("images", "--format", "{{.Repository}}:{{.Tag}}", "nodeimg-up/*")) {
		l.docker("rmi", image)
	}
}
