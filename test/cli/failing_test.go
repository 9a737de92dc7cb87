package cli

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/nodeimg/nodeimg/recipes"
)

func TestFailingRun(t *testing.T) {
	w := newWorkplace(t)
	w.standard()
	good := w.build().digest()
	text, err := os.ReadFile(w.path("recipe.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	w.write("bad.yaml", string(text)+"  run:\n  - echo fine > /etc/fine\n  - |\n    seq 1 40\n    exit 7\n")
	lines := strings.Count(string(text), "\n")

	failed := w.run("build", "bad.yaml", "--progress", "plain").failed(1,
		"step [node ", "exit code 7",
		fmt.Sprintf("bad.yaml:%d:5: spec.run[1]", lines+3), " |     seq 1 40\n", " |     exit 7\n",
		"the Dockerfile", " | RUN --network=none <<'NODEIMG'\n", " | exit 7\n",
		"\n  | 21\n", "\n  | 40\n",
	)
	message := failed.message()
	if n := strings.Count(message, "\n  | "); n != 20 {
		t.Errorf("the message has %d lines of the step's output, want 20:\n%s", n, message)
	}
	if n := strings.Count(message, "exit 7"); n != 2 {
		t.Errorf("the message shows the failing command %d times, want once in the Dockerfile and once in the recipe:\n%s", n, message)
	}
	for line := range strings.Lines(message) {
		if len(line) > 200 {
			t.Errorf("a line of the message is %d bytes long: %s", len(line), line)
		}
	}
	if got := mustDigest(t, w.layoutImage("out/small")); got != good {
		t.Errorf("a failing build replaced the output %s by %s", good, got)
	}
	if got := w.entries("out"); len(got) != 1 {
		t.Errorf("a failing build left %q", got)
	}
	w.run("build", "bad.yaml", "-o", "type=oci,dest=new", "-o", "type=oci-archive,dest=new.tar", "--metadata-file", "new.json").failed(1)
	for _, name := range []string{"new", "new.tar", "new.json"} {
		if _, err := os.Lstat(w.path(name)); err == nil {
			t.Errorf("a failing build wrote %s", name)
		}
	}
	w.write("bad.yaml", string(text)+"  run:\n  - echo fine > /etc/fine\n  - |\n    seq 1 40\n    exit 0\n")
	w.run("build", "bad.yaml").succeeded().digest()
}

// TestFailingPull lets a step fail that nodeimg wrote itself: the reason is not in the step but in what it asked for.
func TestFailingPull(t *testing.T) {
	w, r := newWorkplace(t), startRegistry(t, "", "")
	image := newImage(t, 300)
	r.push(t, "library/broken:1", image)
	layers := mustLayers(t, image)
	layer, err := layers[0].Digest()
	if err != nil {
		t.Fatal(err)
	}
	w.recipe(func(spec *recipes.Spec) {
		spec.Mirrors["docker.io"] = "http://" + r.host
		spec.Preload.Images = []recipes.ImageSource{{Registry: "broken:1"}}
	})
	cached := func() bool {
		_, err := os.Stat(userCache(t) + "/blobs/sha256/" + layer.Hex)
		return err == nil
	}
	for _, test := range []struct {
		name  string
		spoil spoiler
		words []string
	}{
		{"a blob with another digest", otherBytes(layer.Hex), []string{"digest mismatch"}},
		{"a blob cut short", cutShort(layer.Hex), []string{"broke off", "run again"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			w := &workplace{t: t, dir: w.dir}
			r.set(test.spoil)
			failed := w.run("build", "recipe.yaml", "--progress", "plain").failed(1, append(test.words, "docker.io/library/broken:1", layer.Hex[:12])...)
			// containerd asks more than once, people read it once.
			if n := strings.Count(failed.message(), "\n"); n != 1 {
				t.Errorf("the message has %d lines:\n%s", n, failed.message())
			}
			if cached() {
				t.Error("the spoilt blob is in the cache")
			}
			if _, err := os.Lstat(w.path("out")); err == nil {
				t.Errorf("a failing build wrote %q", w.entries("out"))
			}
		})
	}
	r.set(nil)
	w.build().digest()
	if !cached() {
		t.Error("the blob is not in the cache, so this test looked at the wrong place")
	}
}
