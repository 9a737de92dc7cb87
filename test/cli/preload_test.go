package cli

import (
	"bytes"
	"encoding/json"
	"io"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/validate"

	"github.com/nodeimg/nodeimg/nodeimage/inspect"
	"github.com/nodeimg/nodeimg/preload"
	"github.com/nodeimg/nodeimg/recipes"
)

// elsewhere is a workplace on a machine that has never seen the node image: with an empty cache.
func (w *workplace) elsewhere() *workplace {
	w.t.Helper()
	return &workplace{t: w.t, dir: w.dir, env: append(slices.Clone(w.env), "NODEIMG_CACHE="+w.t.TempDir())}
}

// preload runs "nodeimg preload" with args; one that fails ends the test.
func (w *workplace) preload(args ...string) *outcome {
	w.t.Helper()
	return w.run(append([]string{"preload", "--progress", "plain"}, args...)...).succeeded()
}

// engines are the two ways in which node images get their preloaded images.
var engines = []recipes.Engine{recipes.EngineInner, recipes.EngineDirect}

// shippedName is the image that pushNode's recipe preloads.
const shippedName = "example.test/shipped:1"

// pushNode builds the small recipe with one image of an archive and pushes it to r as nodes/small:v1. It is the same in every run of the
// tests, so that only the first has to build it.
func (w *workplace) pushNode(r *registryServer, engine recipes.Engine, changes ...func(*recipes.Spec)) *outcome {
	w.t.Helper()
	w.shippedRecipe(engine, changes...)
	return w.build("--push", "-t", r.host+"/nodes/small:v1")
}

// shippedRecipe writes pushNode's recipe.
func (w *workplace) shippedRecipe(engine recipes.Engine, changes ...func(*recipes.Spec)) {
	w.t.Helper()
	tag, err := name.NewTag(shippedName)
	if err != nil {
		w.t.Fatal(err)
	}
	if err := tarball.WriteToFile(w.path("shipped.tar"), tag, newImage(w.t, -seed)); err != nil {
		w.t.Fatal(err)
	}
	w.recipe(append(changes, func(spec *recipes.Spec) {
		spec.Preload.Images = []recipes.ImageSource{{Archive: "shipped.tar"}}
		spec.Preload.Engine = engine
	})...)
}

// held checks that the node image holds exactly what it says, that it says what is wanted, by reference, and that whoever reads all its
// layers finds the same.
func held(t *testing.T, image v1.Image, report inspect.Report, wanted map[string]v1.Image) {
	t.Helper()
	checkStore(t, image)
	if len(report.Preloaded) != len(wanted) {
		t.Errorf("it says that it holds %+v, want %d images", report.Preloaded, len(wanted))
	}
	part, _ := storeLayers(t, image)
	blobs := storeBlobs(t, part)
	for reference, want := range wanted {
		i := slices.IndexFunc(report.Preloaded, func(p recipes.Preloaded) bool { return p.Reference == reference })
		if i < 0 {
			t.Errorf("it does not say that it holds %s: %+v", reference, report.Preloaded)
			continue
		}
		if want == nil {
			continue
		}
		if got := report.Preloaded[i].Digest; got != mustDigest(t, want).String() {
			t.Errorf("%s is %s, want %s", reference, got, mustDigest(t, want))
		}
		checkBlobs(t, reference, want, blobs)
	}
	config, err := image.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	history := 0
	for _, entry := range config.History {
		if !entry.EmptyLayer {
			history++
		}
	}
	if history != len(report.Layers) || history != len(config.RootFS.DiffIDs) {
		t.Errorf("%d layers have %d history entries and %d diff IDs", len(report.Layers), history, len(config.RootFS.DiffIDs))
	}
}

// storeLayers is the part of a node image that is about preloaded images, as an image, and what it says about itself. Reading the
// distribution's layers again and again would take minutes.
func storeLayers(t *testing.T, image v1.Image) (v1.Image, preload.Contents) {
	t.Helper()
	if err := validate.Image(image, validate.Fast); err != nil {
		t.Errorf("the image is not valid: %v", err)
	}
	layers := mustLayers(t, image)
	top, err := mutate.AppendLayers(empty.Image, layers[len(layers)-1])
	if err != nil {
		t.Fatal(err)
	}
	var contents preload.Contents
	visitFiles(t, top, func(name string, content io.Reader) {
		if name == recipes.ContentsPath {
			if err := json.NewDecoder(content).Decode(&contents); err != nil {
				t.Error(err)
			}
		}
	})
	part := empty.Image
	for i, layer := range layers {
		id, err := layer.DiffID()
		if err != nil {
			t.Fatal(err)
		}
		if i == len(layers)-1 || slices.ContainsFunc(contents.Layers, func(l preload.ContentsLayer) bool { return l.DiffID.String() == id.String() }) {
			if part, err = mutate.AppendLayers(part, layer); err != nil {
				t.Fatal(err)
			}
		}
	}
	return part, contents
}

// checkStore reads all that the node image holds of preloaded images, and fails the test unless it is complete and nothing else.
func checkStore(t *testing.T, image v1.Image) {
	t.Helper()
	part, contents := storeLayers(t, image)
	if err := preload.VerifyImage(t.Context(), nil, part, contents.Images); err != nil {
		t.Error(err)
	}
}

const pause = "registry.k8s.io/pause:3.10.1"

func TestPreloadIntoRegistry(t *testing.T) {
	for _, engine := range engines {
		t.Run(string(engine), func(t *testing.T) {
			w, r := newWorkplace(t), startRegistry(t, "", "")
			built := w.pushNode(r, engine).digest()
			original := r.pull(t, "nodes/small:v1")
			r.push(t, "library/added:1", newImage(t, 200))
			added := r.host + "/library/added:1"
			stranger := w.elsewhere()
			r.asked("")
			out := stranger.preload(r.host+"/nodes/small:v1", "-i", added, "--push", "-t", r.host+"/other/small:added", "--metadata-file", "metadata.json")
			where, digest := out.reference()
			if where != r.host+"/other/small" {
				t.Errorf("printed %s", where)
			}
			checkReadOnlyTheTop(t, r.asked("GET /v2/nodes/small/blobs/"), original)

			changed := r.pull(t, "other/small:added")
			if got := mustDigest(t, changed); got != digest {
				t.Errorf("pulled %s, nodeimg printed %s", got, digest)
			}
			report := stranger.inspect(r.host + "/other/small:added")
			wanted := map[string]v1.Image{shippedName: nil, added: newImage(t, 200), pause: nil}
			for _, p := range report.Preloaded {
				if strings.Contains(p.Reference, "/pause:") {
					delete(wanted, pause)
					wanted[p.Reference] = nil
				}
			}
			held(t, changed, report, wanted)
			before := stranger.inspect(r.host + "/nodes/small:v1")
			if report.Recipe != before.Recipe || len(before.Changed) != 0 {
				t.Errorf("the recipe was %s and is %s; changed before is %v", before.Recipe, report.Recipe, before.Changed)
			}
			if want := []recipes.Changed{{Reference: added, After: mustDigest(t, newImage(t, 200)).String()}}; !slices.Equal(report.Changed, want) {
				t.Errorf("changed is %v, want %v", report.Changed, want)
			}
			named := func(l inspect.Layer) bool { return strings.Contains(l.Holds, added) }
			if !slices.ContainsFunc(report.Layers, named) {
				t.Errorf("no layer says that it holds %s: %+v", added, report.Layers)
			}

			t.Run("again", func(t *testing.T) {
				if got := w.elsewhere().preload(r.host+"/nodes/small:v1", "-i", added, "-o", "type=oci,dest=again").digest(); got != digest {
					t.Errorf("on another machine the result is %s, not %s", got, digest)
				}
			})
			t.Run("replace", func(t *testing.T) {
				newer := newImage(t, 201)
				r.push(t, "library/added:1", newer)
				stranger.preload(r.host+"/other/small:added", "-i", added, "--push", "-t", r.host+"/other/small:added")
				replaced := r.pull(t, "other/small:added")
				wanted[added] = newer
				held(t, replaced, stranger.inspect(r.host+"/other/small:added"), wanted)
			})
			t.Run("remove", func(t *testing.T) {
				name, got := stranger.preload(r.host+"/other/small:added", "--remove", added, "-o", "type=oci,dest=removed").reference()
				removed := w.layoutImage(name)
				delete(wanted, added)
				report := stranger.inspect("removed")
				held(t, removed, report, wanted)
				if len(report.Changed) != 0 {
					t.Errorf("the images are those of the build, but changed is %v", report.Changed)
				}
				// Pulling steps leave a history that names no images; what nodeimg appends is the same whenever it is made.
				if engine == recipes.EngineDirect && got != built {
					t.Errorf("after adding and removing the image is %s, built was %s", got, built)
				}
			})
			t.Run("remove an image of the recipe", func(t *testing.T) {
				stranger.preload(r.host+"/nodes/small:v1", "--remove", shippedName, "-o", "type=oci,dest=without")
				without := w.layoutImage("without")
				delete(wanted, shippedName)
				held(t, without, stranger.inspect("without"), wanted)
				if got, all := layerCount(t, without), layerCount(t, original); got >= all {
					t.Errorf("%d of %d layers are left after removing an image", got, all)
				}
			})
		})
	}
}

func layerCount(t testing.TB, image v1.Image) int {
	t.Helper()
	manifest, err := image.Manifest()
	if err != nil {
		t.Fatal(err)
	}
	return len(manifest.Layers)
}

// checkReadOnlyTheTop fails the test unless, of the image's blobs, only config and topmost layer were asked for.
func checkReadOnlyTheTop(t *testing.T, asked []string, image v1.Image) {
	t.Helper()
	manifest, err := image.Manifest()
	if err != nil {
		t.Fatal(err)
	}
	allowed := []v1.Hash{manifest.Config.Digest, manifest.Layers[len(manifest.Layers)-1].Digest}
	if len(asked) == 0 {
		t.Error("nothing was read, so this test does not see what is")
	}
	for _, request := range asked {
		if !slices.ContainsFunc(allowed, func(h v1.Hash) bool { return strings.HasSuffix(request, h.String()) }) {
			t.Errorf("asked %s", request)
		}
	}
}

// TestPreloadFiles changes node images in files and folders, in place too, with images from everywhere but the Docker Engine.
func TestPreloadFiles(t *testing.T) {
	w, r := newWorkplace(t), startRegistry(t, "", "")
	w.pushNode(r, recipes.EngineDirect)
	w.build("-o", "type=oci,dest=node", "-o", "type=oci-archive,dest=node.tar", "-o", "type=docker,dest=docker.tar", "-t", "example.test/node:1")
	archived, laid := newImage(t, 210), newImage(t, 211)
	tag, err := name.NewTag("example.test/archived:1")
	if err != nil {
		t.Fatal(err)
	}
	if err := tarball.WriteToFile(w.path("archived.tar"), tag, archived); err != nil {
		t.Fatal(err)
	}
	folder, err := layout.Write(w.path("laid"), empty.Index)
	if err != nil {
		t.Fatal(err)
	}
	if err := folder.AppendImage(laid, layout.WithAnnotations(map[string]string{"org.opencontainers.image.ref.name": "example.test/laid:1"})); err != nil {
		t.Fatal(err)
	}
	stranger := w.elsewhere()
	var digests []v1.Hash
	for _, target := range []string{"node", "node.tar", "docker.tar"} {
		out := stranger.preload(target, "-i", "archive:arch*.tar", "-i", "layout:laid", "-o", "type=oci,dest=changed-"+target)
		changed := w.layoutImage("changed-" + target)
		checkStore(t, changed)
		report := stranger.inspect("changed-" + target)
		for _, reference := range []string{"example.test/archived:1", "example.test/laid:1"} {
			if !slices.ContainsFunc(report.Preloaded, func(p recipes.Preloaded) bool { return p.Reference == reference }) {
				t.Errorf("%s does not hold %s: %+v", target, reference, report.Preloaded)
			}
		}
		digests = append(digests, out.digest())
	}
	if digests[0] != digests[1] {
		t.Errorf("changed in a folder the image is %s, in an archive %s", digests[0], digests[1])
	}
	// A docker-archive keeps layers only as bytes of a tar that is compressed again, but what is in them is the same.
	if got, want := mustConfig(t, w.layoutImage("changed-docker.tar")), mustConfig(t, w.layoutImage("changed-node")); !bytes.Equal(got, want) {
		t.Errorf("changed in a docker-archive the config is\n%s\nwant\n%s", got, want)
	}
	if got := stranger.preload("node", "-i", "archive:archived.tar", "-i", "layout:laid", "-o", "type=oci,dest=node").digest(); got != digests[0] || mustDigest(t, w.layoutImage("node")) != got {
		t.Errorf("changed in its own folder the image is %s, want %s", got, digests[0])
	}
	if got := stranger.preload("node.tar", "-i", "archive:archived.tar", "-i", "layout:laid", "-o", "type=oci-archive,dest=node.tar").digest(); got != digests[0] {
		t.Errorf("changed in its own archive the image is %s, want %s", got, digests[0])
	}
	if got := w.inspect("node.tar").Digest; got != digests[0].String() {
		t.Errorf("the archive holds %s, want %s", got, digests[0])
	}
}

func mustConfig(t *testing.T, image v1.Image) []byte {
	t.Helper()
	config, err := image.RawConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	return config
}
