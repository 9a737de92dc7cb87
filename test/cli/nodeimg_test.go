package cli

import (
	"bytes"
	"context"
	"errors"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"sigs.k8s.io/yaml"

	"github.com/nodeimg/nodeimg/recipes"
)

// runLimit ends a nodeimg that hangs. Waiting for another's builder on the same cache is no hanging.
const runLimit = 20 * time.Minute

// workplace is a folder with recipes in which nodeimg is run.
type workplace struct {
	t   testing.TB
	dir string
	// env is added to the environment of nodeimg.
	env []string
}

func newWorkplace(t testing.TB) *workplace {
	t.Helper()
	return &workplace{t: t, dir: t.TempDir()}
}

// path is the path of a file in the workplace.
func (w *workplace) path(elements ...string) string {
	return filepath.Join(append([]string{w.dir}, elements...)...)
}

// write writes a file of the workplace.
func (w *workplace) write(name, content string) {
	w.t.Helper()
	if err := os.MkdirAll(filepath.Dir(w.path(name)), 0o755); err != nil {
		w.t.Fatal(err)
	}
	if err := os.WriteFile(w.path(name), []byte(content), 0o644); err != nil {
		w.t.Fatal(err)
	}
}

// recipe writes recipe.yaml: a small node of programs from releasePages, changed by changes.
func (w *workplace) recipe(changes ...func(*recipes.Spec)) {
	w.t.Helper()
	mirrors, err := releasePages()
	if err != nil {
		w.t.Fatal(err)
	}
	no := false
	recipe := recipes.Recipe{
		APIVersion: recipes.APIVersion, Kind: recipes.Kind, Metadata: recipes.Metadata{Name: "small"},
		Spec: recipes.Spec{
			Kubernetes: recipes.Kubernetes{Version: "v1.34.10", Source: recipes.SourceRelease},
			Base:       recipes.Base{Distro: "debian", Release: "12", From: recipes.FromPackages},
			CNI:        recipes.CNI{Name: recipes.CNINone},
			Preload:    recipes.Preload{ControlPlane: &no},
			Mirrors:    maps.Clone(mirrors),
		},
	}
	for _, change := range changes {
		change(&recipe.Spec)
	}
	text, err := yaml.Marshal(recipe)
	if err != nil {
		w.t.Fatal(err)
	}
	w.write("recipe.yaml", string(text))
}

// environment is that of the tests without what steers nodeimg, and with w's own.
func (w *workplace) environment() []string {
	environment := slices.DeleteFunc(os.Environ(), func(entry string) bool {
		name, _, _ := strings.Cut(entry, "=")
		return slices.Contains([]string{
			"BUILDKIT_HOST", "DOCKER_CONFIG", "DOCKER_CONTEXT", "DOCKER_HOST", "REGISTRY_AUTH_FILE", "SOURCE_DATE_EPOCH", "TMPDIR",
		}, name)
	})
	return append(append(environment, "TMPDIR="+temporary, "DOCKER_CONFIG="+w.path("no-docker-config")), w.env...)
}

// command prepares nodeimg with args in the workplace.
func (w *workplace) command(ctx context.Context, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Dir = w.dir
	cmd.Env = w.environment()
	return cmd
}

// outcome is what a finished nodeimg left.
type outcome struct {
	t              testing.TB
	args           []string
	status         int
	stdout, stderr string
}

// run runs nodeimg with args to its end.
func (w *workplace) run(args ...string) *outcome {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(w.t.Context(), runLimit)
	defer cancel()
	return w.finish(w.command(ctx, args...))
}

// finish runs a prepared nodeimg to its end.
func (w *workplace) finish(cmd *exec.Cmd) *outcome {
	w.t.Helper()
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		w.t.Fatalf("running nodeimg: %v", err)
	}
	return &outcome{w.t, cmd.Args[1:], cmd.ProcessState.ExitCode(), stdout.String(), stderr.String()}
}

// build runs "nodeimg build recipe.yaml" with args; a build that fails ends the test.
func (w *workplace) build(args ...string) *outcome {
	w.t.Helper()
	return w.run(append([]string{"build", "recipe.yaml", "--progress", "plain"}, args...)...).succeeded()
}

// succeeded ends the test unless nodeimg succeeded.
func (o *outcome) succeeded() *outcome {
	o.t.Helper()
	if o.status != 0 {
		o.t.Fatalf("nodeimg %q exited with %d:\n%s", o.args, o.status, o.stderr)
	}
	return o
}

// failed checks the exit status, that nothing is on standard output, and that the error messages hold all words.
func (o *outcome) failed(status int, words ...string) *outcome {
	o.t.Helper()
	if o.status != status {
		o.t.Errorf("nodeimg %q exited with %d, want %d:\n%s", o.args, o.status, status, o.stderr)
	}
	if o.stdout != "" {
		o.t.Errorf("a failing nodeimg %q printed %q", o.args, o.stdout)
	}
	message := o.message()
	for _, word := range words {
		if !strings.Contains(message, word) {
			o.t.Errorf("the message of nodeimg %q has no %q:\n%s", o.args, word, message)
		}
	}
	return o
}

// message is what follows the progress on standard error.
func (o *outcome) message() string {
	if i := strings.Index(o.stderr, "Error: "); i == 0 || i > 0 && o.stderr[i-1] == '\n' {
		return o.stderr[i:]
	}
	if i := strings.Index(o.stderr, "\nError: "); i >= 0 {
		return o.stderr[i+1:]
	}
	return o.stderr
}

// reference is the only line on standard output, parted into name and digest.
func (o *outcome) reference() (name string, digest v1.Hash) {
	o.t.Helper()
	name, text, ok := strings.Cut(strings.TrimSuffix(o.stdout, "\n"), "@")
	digest, err := v1.NewHash(text)
	if !ok || err != nil || strings.Count(o.stdout, "\n") != 1 {
		o.t.Fatalf("standard output is not one reference with digest: %q", o.stdout)
	}
	return name, digest
}

// digest is the digest of the only reference on standard output.
func (o *outcome) digest() v1.Hash {
	o.t.Helper()
	_, digest := o.reference()
	return digest
}

// lock returns what recipe.yaml resolves to, as "nodeimg lock" prints it.
func (w *workplace) lock() recipes.Lock {
	w.t.Helper()
	var lock recipes.Lock
	if err := yaml.UnmarshalStrict([]byte(w.run("lock", "recipe.yaml").succeeded().stdout), &lock); err != nil {
		w.t.Fatalf("reading the lock: %v", err)
	}
	return lock
}

// layoutImage opens the only image of an OCI layout of the workplace.
func (w *workplace) layoutImage(name string) v1.Image {
	w.t.Helper()
	index, err := layout.ImageIndexFromPath(w.path(name))
	if err != nil {
		w.t.Fatal(err)
	}
	manifest, err := index.IndexManifest()
	if err != nil {
		w.t.Fatal(err)
	}
	if len(manifest.Manifests) != 1 {
		w.t.Fatalf("%s holds %d images", name, len(manifest.Manifests))
	}
	image, err := index.Image(manifest.Manifests[0].Digest)
	if err != nil {
		w.t.Fatal(err)
	}
	return image
}

// entries are the names in a folder of the workplace.
func (w *workplace) entries(name string) []string {
	w.t.Helper()
	found, err := os.ReadDir(w.path(name))
	if err != nil {
		w.t.Fatal(err)
	}
	var names []string
	for _, entry := range found {
		names = append(names, entry.Name())
	}
	return names
}

// eventually polls until done, and fails the test when that takes absurdly long.
func eventually(t testing.TB, what string, done func() bool) {
	t.Helper()
	for deadline := time.Now().Add(runLimit); !done(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%s: still not so after %s", what, runLimit)
		}
	}
}
