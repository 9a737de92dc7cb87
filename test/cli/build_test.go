package cli

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/validate"

	"github.com/nodeimg/nodeimg/builder/publish"
	"github.com/nodeimg/nodeimg/nodeimage/inspect"
	"github.com/nodeimg/nodeimg/preload"
	"github.com/nodeimg/nodeimg/recipes"
)

func mustDigest(t *testing.T, image v1.Image) v1.Hash {
	t.Helper()
	digest, err := image.Digest()
	if err != nil {
		t.Fatal(err)
	}
	return digest
}

// inspect returns what "nodeimg inspect --json" says about target.
func (w *workplace) inspect(target string) inspect.Report {
	w.t.Helper()
	var report inspect.Report
	if err := json.Unmarshal([]byte(w.run("inspect", "--json", target).succeeded().stdout), &report); err != nil {
		w.t.Fatal(err)
	}
	return report
}

// preloaded is what a lock promises that inspect shows.
func preloaded(lock recipes.Lock) []recipes.Preloaded {
	var out []recipes.Preloaded
	for _, image := range lock.Images {
		out = append(out, recipes.Preloaded{Reference: image.Reference, Digest: image.Digest, Size: image.Bytes, Platform: image.Platform})
	}
	return out
}

func TestBuild(t *testing.T) {
	w := newWorkplace(t)
	w.standard()
	built := w.build()
	where, digest := built.reference()
	if where != filepath.Join("out", "small") {
		t.Errorf("the image is in %s", where)
	}
	if got := w.entries("."); !slices.Equal(got, []string{"out", "recipe.yaml"}) {
		t.Errorf("beside the recipe lies %q", got)
	}
	if got := w.entries("out"); !slices.Equal(got, []string{"small"}) {
		t.Errorf("in out lies %q", got)
	}
	image := w.layoutImage("out/small")
	if got := mustDigest(t, image); got != digest {
		t.Errorf("the layout holds %s, nodeimg printed %s", got, digest)
	}
	if err := validate.Image(image); err != nil {
		t.Errorf("the image is not valid: %v", err)
	}
	lock := w.lock()
	if len(lock.Images) != 2 || lock.Images[0].Reference != "docker.io/library/standard:1" {
		t.Errorf("the lock holds %+v", lock.Images)
	}
	if err := preload.VerifyImage(t.Context(), nil, image, lock.Images); err != nil {
		t.Error(err)
	}
	checkInspect := func(t *testing.T, target string) {
		t.Helper()
		report := w.inspect(target)
		if report.Digest != digest.String() || report.Kubernetes != "v1.34.10" || !slices.Equal(report.Preloaded, preloaded(lock)) {
			t.Errorf("inspect %s does not agree with the lock: %+v", target, report)
		}
		if text := w.run("inspect", target).succeeded().stdout; !strings.Contains(text, "docker.io/library/standard:1") || !strings.Contains(text, digest.String()) {
			t.Errorf("inspect %s prints\n%s", target, text)
		}
	}
	checkInspect(t, "out/small")

	t.Run("oci-archive", func(t *testing.T) {
		out := w.build("-o", "type=oci-archive,dest=node.tar", "--metadata-file", "metadata.json")
		if where, got := out.reference(); where != "node.tar" || got != digest {
			t.Errorf("got %s in %s, want %s", got, where, digest)
		}
		checkInspect(t, "node.tar")
		var metadata publish.Metadata
		text, err := os.ReadFile(w.path("metadata.json"))
		if err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal(text, &metadata); err != nil {
			t.Fatal(err)
		}
		if metadata.Digest != digest.String() || metadata.Lock == nil || !slices.Equal(preloaded(*metadata.Lock), preloaded(lock)) {
			t.Errorf("the metadata file does not describe the image: %s", text)
		}
	})
	t.Run("docker-archive", func(t *testing.T) {
		w.build("-o", "type=docker,dest=docker.tar", "-t", "example.test/node:1").reference()
		tag, err := name.NewTag("example.test/node:1")
		if err != nil {
			t.Fatal(err)
		}
		loaded, err := tarball.ImageFromPath(w.path("docker.tar"), &tag)
		if err != nil {
			t.Fatal(err)
		}
		checkDiffIDs(t, loaded)
		wanted, err := image.ConfigName()
		if err != nil {
			t.Fatal(err)
		}
		if got, err := loaded.ConfigName(); err != nil || got != wanted {
			t.Errorf("the archive holds the config %s, %v; want %s", got, err, wanted)
		}
		if err := preload.VerifyImage(t.Context(), nil, loaded, lock.Images); err != nil {
			t.Error(err)
		}
	})
	t.Run("two outputs", func(t *testing.T) {
		out := w.build("-o", "type=oci,dest=one", "-o", "type=oci-archive,dest=two.tar")
		if want := "one@" + digest.String() + "\ntwo.tar@" + digest.String() + "\n"; out.stdout != want {
			t.Errorf("printed %q, want %q", out.stdout, want)
		}
	})
	t.Run("push", func(t *testing.T) {
		open, private := startRegistry(t, "", ""), startRegistry(t, "robot", "pass"+w.dir)
		pusher := &workplace{t: t, dir: w.dir}
		pusher.dockerConfig(private)
		args := []string{"--push", "-t", open.host + "/nodes/small:v1", "-t", open.host + "/nodes/small:v2", "-t", private.host + "/small:v1"}
		out := pusher.build(args...)
		if want := open.host + "/nodes/small@" + digest.String() + "\n" + private.host + "/small@" + digest.String() + "\n"; !sameReferences(out.stdout, want) {
			t.Errorf("printed\n%swant\n%s", out.stdout, want)
		}
		for _, pulled := range []v1.Image{open.pull(t, "nodes/small:v1"), open.pull(t, "nodes/small:v2"), private.pull(t, "small:v1")} {
			if got := mustDigest(t, pulled); got != digest {
				t.Errorf("pulled %s, want %s", got, digest)
			}
		}
		if err := validate.Image(private.pull(t, "small:v1")); err != nil {
			t.Error(err)
		}
		checkInspect(t, open.host+"/nodes/small:v2")
		open.asked("")
		private.asked("")
		pusher.build(args...)
		for _, r := range []*registryServer{open, private} {
			for _, request := range r.asked("") {
				if method, _, _ := strings.Cut(request, " "); method != "GET" && method != "HEAD" {
					t.Errorf("pushing again did %s", request)
				}
			}
		}
		// Without credentials the private registry refuses, and says what to do.
		anonymous := &workplace{t: t, dir: w.dir}
		anonymous.run("build", "recipe.yaml", "--push", "-t", private.host+"/small:v1").failed(1, private.host+"/small", "docker login")
	})
}

// checkDiffIDs reads every layer and compares it with what the config says. validate.Image would compress the layers of a docker-archive.
func checkDiffIDs(t *testing.T, image v1.Image) {
	t.Helper()
	config, err := image.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	layers := mustLayers(t, image)
	if len(layers) != len(config.RootFS.DiffIDs) {
		t.Fatalf("%d layers have %d entries in the config", len(layers), len(config.RootFS.DiffIDs))
	}
	for i, layer := range layers {
		r, err := layer.Uncompressed()
		if err != nil {
			t.Fatal(err)
		}
		got, _, err := v1.SHA256(r)
		if err != nil {
			t.Fatal(err)
		}
		if err := r.Close(); err != nil {
			t.Fatal(err)
		}
		if got != config.RootFS.DiffIDs[i] {
			t.Errorf("layer %d is %s, the config says %s", i, got, config.RootFS.DiffIDs[i])
		}
	}
}

// sameReferences compares what was printed with what has to be, but for the tags in it.
func sameReferences(got, want string) bool {
	strip := strings.NewReplacer(":v1@", "@", ":v2@", "@")
	return strip.Replace(got) == want
}
