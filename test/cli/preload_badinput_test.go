package cli

import (
	"slices"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"

	"github.com/nodeimg/nodeimg/recipes"
)

func TestPreloadBadInput(t *testing.T) {
	w, r := newWorkplace(t), startRegistry(t, "", "")
	w.pushNode(r, recipes.EngineDirect)
	node := r.host + "/nodes/small:v1"
	r.push(t, "library/app:1", newImage(t, 220))
	app := r.host + "/library/app:1"
	other, err := name.NewTag(app)
	if err != nil {
		t.Fatal(err)
	}
	if err := tarball.WriteToFile(w.path("app.tar"), other, newImage(t, 221)); err != nil {
		t.Fatal(err)
	}
	r.push(t, "plain:1", newImage(t, 222))
	squashed, err := mutate.AppendLayers(mustLabels(t, r.pull(t, "nodes/small:v1")), mustLayers(t, newImage(t, 223))...)
	if err != nil {
		t.Fatal(err)
	}
	r.push(t, "squashed:1", squashed)
	index := mutate.AppendManifests(empty.Index,
		mutate.IndexAddendum{Add: r.pull(t, "nodes/small:v1"), Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: "amd64"}}},
		mutate.IndexAddendum{Add: newImage(t, 222), Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: "arm64"}}})
	several, err := name.ParseReference(r.host + "/nodes/several:1")
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.WriteIndex(several, index); err != nil {
		t.Fatal(err)
	}
	r.asked("")
	for _, test := range []struct {
		name  string
		args  []string
		words []string
	}{
		{"nothing to do", []string{node, "--push", "-t", node}, []string{"-i", "--remove"}},
		{"no output", []string{node, "-i", app}, []string{"--push", "--load", "--push -t " + node}},
		{"no output for a folder", []string{".", "-i", app}, []string{"type=oci,dest=."}},
		{"push without a name", []string{node, "-i", app, "--push"}, []string{"-t"}},
		{"load without a name", []string{node, "-i", app, "--load"}, []string{"-t"}},
		{"layout", []string{node, "-i", app, "--layout", "flat", "-o", "out"}, []string{"flat", "unpacked or packed"}},
		{"a file as source", []string{node, "-i", "app.tar", "-o", "out"}, []string{"archive:app.tar"}},
		{"an empty source", []string{node, "-i", "archive:", "-o", "out"}, []string{"archive:FILE"}},
		{"no archive of a pattern", []string{node, "-i", "archive:missing-*.tar", "-o", "out"}, []string{"missing-*.tar", "no file"}},
		{"no such archive", []string{node, "-i", "archive:missing.tar", "-o", "out"}, []string{"missing.tar"}},
		{"no image name", []string{node, "-i", "UPPER", "-o", "out"}, []string{"UPPER"}},
		{"two digests", []string{node, "-i", app, "-i", "archive:app.tar", "-o", "out"}, []string{app, "twice"}},
		{"remove what is not there", []string{node, "--remove", "example.test/shipped:2", "-o", "out"}, []string{"did you mean " + shippedName + "?"}},
		{"remove the sandbox", []string{node, "--remove", pauseOf(t, w, node), "-o", "out"}, []string{"pod sandbox", "-i"}},
		{"no node image", []string{r.host + "/plain:1", "-i", app, "-o", "out"}, []string{"not a node image"}},
		{"no store layer", []string{r.host + "/squashed:1", "-i", app, "-o", "out"}, []string{"no layer in which nodeimg describes", "build it again"}},
		{"several platforms", []string{several.String(), "-i", app, "-o", "out"}, []string{"linux/amd64, linux/arm64", "--platform"}},
		{"no folder", []string{"./nowhere", "-i", app, "-o", "out"}, []string{"./nowhere"}},
		{"an occupied folder", []string{node, "-i", app, "-o", "type=oci,dest=."}, []string{"not replaced"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			w.run(append([]string{"preload", "--progress", "plain"}, test.args...)...).failed(2, test.words...)
			if slices.Contains(w.entries("."), "out") {
				t.Error("it left an output")
			}
		})
	}
	for _, request := range r.asked("") {
		if method, _, _ := strings.Cut(request, " "); method != "GET" && method != "HEAD" {
			t.Errorf("bad input did %s", request)
		}
	}
	w.preload(several.String(), "-i", app, "--platform", "linux/amd64", "-o", "out")
	// Names are the world's business once they are well-formed.
	w.run("preload", r.host+"/nodes/missing:1", "-i", app, "-o", "out").failed(1, "nodes/missing:1", "docker:")
	w.run("preload", node, "-i", r.host+"/library/missing:1", "-o", "out").failed(2, "library/missing:1")
}

// pauseOf is the name of the pod sandbox's image in the node image.
func pauseOf(t *testing.T, w *workplace, node string) string {
	t.Helper()
	for _, p := range w.inspect(node).Preloaded {
		if strings.Contains(p.Reference, "pause") {
			return p.Reference
		}
	}
	t.Fatalf("%s has no pause image", node)
	return ""
}

func mustLayers(t *testing.T, image v1.Image) []v1.Layer {
	t.Helper()
	layers, err := image.Layers()
	if err != nil {
		t.Fatal(err)
	}
	return layers
}

// mustLabels returns an image with nothing but the labels of another.
func mustLabels(t *testing.T, image v1.Image) v1.Image {
	t.Helper()
	config, err := image.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	bare, err := mutate.ConfigFile(empty.Image, &v1.ConfigFile{
		OS: config.OS, Architecture: config.Architecture, RootFS: v1.RootFS{Type: "layers"}, Config: v1.Config{Labels: config.Config.Labels},
	})
	if err != nil {
		t.Fatal(err)
	}
	return bare
}
