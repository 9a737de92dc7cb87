package cli

import (
	"regexp"
	"slices"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/nodeimg/nodeimg/recipes"
)

// describedLayer is a layer with the instruction that made it.
type describedLayer struct{ digest, createdBy string }

func describeLayers(t *testing.T, image v1.Image) []describedLayer {
	t.Helper()
	manifest, err := image.Manifest()
	if err != nil {
		t.Fatal(err)
	}
	config, err := image.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	histories := slices.DeleteFunc(slices.Clone(config.History), func(h v1.History) bool { return h.EmptyLayer })
	if len(histories) != len(manifest.Layers) {
		t.Fatalf("%d layers have %d histories", len(manifest.Layers), len(histories))
	}
	var out []describedLayer
	for i, layer := range manifest.Layers {
		out = append(out, describedLayer{layer.Digest.String(), histories[i].CreatedBy})
	}
	return out
}

// changed are the instructions of b's layers that a does not have.
func changed(a, b []describedLayer) []string {
	var out []string
	for _, layer := range b {
		if !slices.ContainsFunc(a, func(o describedLayer) bool { return o.digest == layer.digest }) {
			out = append(out, layer.createdBy)
		}
	}
	return out
}

// stepLine is a step's first line in the plain display: its number and its name.
var stepLine = regexp.MustCompile(`(?m)^(#[0-9]+) (\[.*)$`)

// ran are the build steps with word in their name that the plain display shows as run, not as cached.
func ran(display, word string) []string {
	var out []string
	for _, match := range stepLine.FindAllStringSubmatch(display, -1) {
		// The display repeats the line when it comes back to a step.
		if strings.Contains(match[2], word) && !slices.Contains(out, match[2]) && !strings.Contains(display, "\n"+match[1]+" CACHED\n") {
			out = append(out, match[2])
		}
	}
	return out
}

func TestRebuild(t *testing.T) {
	for _, test := range []struct {
		engine recipes.Engine
		// step is in the name of the step that preloads an image, layer starts the history of what it makes.
		step, layer string
	}{
		{recipes.EngineInner, "pull.sh", "COPY /out/ " + recipes.StorePath + "/"},
		{recipes.EngineDirect, "[preload] layer", "nodeimg: preload docker.io/library/b:1"},
	} {
		t.Run(string(test.engine), func(t *testing.T) { rebuild(t, test.engine, test.step, test.layer) })
	}
}

func rebuild(t *testing.T, engine recipes.Engine, step, layer string) {
	w, r := newWorkplace(t), startRegistry(t, "", "")
	r.push(t, "library/a:1", newImage(t, 200))
	r.push(t, "library/b:1", newImage(t, 201))
	recipe := func(run string) {
		w.recipe(func(spec *recipes.Spec) {
			spec.Mirrors["docker.io"] = "http://" + r.host
			spec.Preload.Engine = engine
			spec.Preload.Images = []recipes.ImageSource{{Registry: "a:1"}, {Registry: "b:1"}}
			spec.Run = []string{run}
		})
	}
	preloaded := func(display string) []string {
		return slices.DeleteFunc(ran(display, step), func(name string) bool { return !strings.Contains(name, "docker.io/") })
	}
	recipe("echo one > /etc/number")
	first := w.build()
	// The sandbox image's step may be known from the builds of other tests.
	if got := preloaded(first.stderr); len(got) != 2 {
		t.Errorf("two images were preloaded by the steps %q:\n%s", got, first.stderr)
	}
	layers := describeLayers(t, w.layoutImage("out/small"))

	t.Run("nothing changed", func(t *testing.T) {
		again := w.build()
		if again.digest() != first.digest() {
			t.Errorf("got %s, before it was %s", again.digest(), first.digest())
		}
		if !strings.Contains(again.stderr, "nothing changed") || strings.Contains(again.stderr, "buildkitd") {
			t.Errorf("a builder was started:\n%s", again.stderr)
		}
	})
	t.Run("no cache", func(t *testing.T) {
		again := w.build("--no-cache")
		if again.digest() != first.digest() {
			t.Errorf("got %s, before it was %s", again.digest(), first.digest())
		}
		if len(ran(again.stderr, "setup.sh")) != 1 || engine == recipes.EngineInner && len(ran(again.stderr, step)) != 3 {
			t.Errorf("not every step ran:\n%s", again.stderr)
		}
	})
	t.Run("another run line", func(t *testing.T) {
		recipe("echo two > /etc/number")
		r.asked("")
		again := w.build()
		if got := preloaded(again.stderr); len(got) > 0 {
			t.Errorf("images were preloaded again: %q", got)
		}
		if got := r.asked("/blobs/"); len(got) > 0 {
			t.Errorf("the registry was asked for %q", got)
		}
		if got := changed(layers, describeLayers(t, w.layoutImage("out/small"))); len(got) != 1 || !strings.Contains(got[0], "echo two") {
			t.Errorf("the layers that changed are %q", got)
		}
	})
	t.Run("another image", func(t *testing.T) {
		recipe("echo one > /etc/number")
		r.push(t, "library/b:1", newImage(t, 202))
		r.asked("")
		again := w.build()
		if got := preloaded(again.stderr); len(got) != 1 || !strings.Contains(got[0], "library/b:1") {
			t.Errorf("the images that were preloaded are %q", got)
		}
		if got := r.asked("library/a/blobs/"); len(got) > 0 {
			t.Errorf("the registry was asked for %q", got)
		}
		got := changed(layers, describeLayers(t, w.layoutImage("out/small")))
		if len(got) != 2 || !strings.HasPrefix(got[0], layer) || !strings.HasPrefix(got[1], "nodeimg: index") {
			t.Errorf("the layers that changed are %q", got)
		}
	})
}
