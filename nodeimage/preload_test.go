package nodeimage

import (
	"encoding/json"
	"fmt"
	"io"
	"log"
	"math/rand"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/google/go-containerregistry/pkg/v1/validate"

	"github.com/nodeimg/nodeimg/builder/publish"
	"github.com/nodeimg/nodeimg/dockerfiles"
	"github.com/nodeimg/nodeimg/internal/cache"
	"github.com/nodeimg/nodeimg/nodeimage/inspect"
	"github.com/nodeimg/nodeimg/preload"
	"github.com/nodeimg/nodeimg/preload/layers"
	"github.com/nodeimg/nodeimg/recipes"
)

// countingRegistry is a real registry that remembers what it is asked.
type countingRegistry struct {
	host string
	next http.Handler

	mu    sync.Mutex
	asked []string
}

func newRegistry(t testing.TB) *countingRegistry {
	t.Helper()
	r := &countingRegistry{next: registry.New(registry.Logger(log.New(io.Discard, "", 0)))}
	server := httptest.NewServer(r)
	t.Cleanup(server.Close)
	r.host = strings.TrimPrefix(server.URL, "http://")
	return r
}

// ServeHTTP implements http.Handler.
func (r *countingRegistry) ServeHTTP(w http.ResponseWriter, request *http.Request) {
	r.mu.Lock()
	r.asked = append(r.asked, request.Method+" "+request.URL.Path)
	r.mu.Unlock()
	r.next.ServeHTTP(w, request)
}

// take returns the requests since the last call that begin with prefix.
func (r *countingRegistry) take(prefix string) []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	all := r.asked
	r.asked = nil
	return slices.DeleteFunc(all, func(request string) bool { return !strings.HasPrefix(request, prefix) })
}

func (r *countingRegistry) push(t testing.TB, path string, img v1.Image) string {
	t.Helper()
	ref, err := name.ParseReference(r.host + "/" + path)
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.Write(ref, img, remote.WithContext(t.Context())); err != nil {
		t.Fatal(err)
	}
	return ref.String()
}

func (r *countingRegistry) pull(t testing.TB, reference string) v1.Image {
	t.Helper()
	ref, err := name.ParseReference(reference)
	if err != nil {
		t.Fatal(err)
	}
	img, err := remote.Image(ref, remote.WithContext(t.Context()))
	if err != nil {
		t.Fatal(err)
	}
	return img
}

// appImage is an image of two layers for linux/amd64; the first is the same for all.
func appImage(t testing.TB, size, seed int64) v1.Image {
	t.Helper()
	img, err := mutate.ConfigFile(mutate.ConfigMediaType(mutate.MediaType(empty.Image, types.OCIManifestSchema1), types.OCIConfigJSON),
		&v1.ConfigFile{OS: "linux", Architecture: "amd64", RootFS: v1.RootFS{Type: "layers"}})
	if err != nil {
		t.Fatal(err)
	}
	for _, seed := range []int64{1, seed} {
		layer, err := random.Layer(size/2, types.OCILayer, random.WithSource(rand.NewSource(seed)))
		if err != nil {
			t.Fatal(err)
		}
		if img, err = mutate.AppendLayers(img, layer); err != nil {
			t.Fatal(err)
		}
	}
	return img
}

// testNode is a node image as engine direct makes it, on a distribution of random bytes, with the images of the references.
func testNode(t testing.TB, c *cache.Cache, references ...string) v1.Image {
	t.Helper()
	return testNodeWith(t, c, recipes.CRI{Name: recipes.CRIContainerd, Version: "2.4.2"}, references...)
}

// testNodeWith is testNode with a container runtime.
func testNodeWith(t testing.TB, c *cache.Cache, cri recipes.CRI, references ...string) v1.Image {
	t.Helper()
	var images []recipes.LockedImage
	sources := &preload.Sources{Cache: c}
	for i, reference := range references {
		role := recipes.RoleUser
		if i == 0 {
			role = recipes.RoleSandbox
		}
		found, err := sources.Resolve(t.Context(), recipes.ImageSource{Registry: reference}, "linux/amd64", role)
		if err != nil {
			t.Fatal(err)
		}
		if err := sources.Fetch(t.Context(), found[0]); err != nil {
			t.Fatal(err)
		}
		images = append(images, found[0])
	}
	slices.SortFunc(images, func(a, b recipes.LockedImage) int { return strings.Compare(a.Reference, b.Reference) })
	recipe := recipes.Recipe{Metadata: recipes.Metadata{Name: "test"}, Spec: recipes.Spec{
		Kubernetes: recipes.Kubernetes{Version: "v1.34.10"}, CRI: cri}}
	labels, err := dockerfiles.Labels(recipe, recipes.Lock{Base: recipes.LockedBase{Distro: "debian", Release: "12"}, Images: images})
	if err != nil {
		t.Fatal(err)
	}
	base, err := mutate.ConfigFile(mutate.ConfigMediaType(mutate.MediaType(empty.Image, types.OCIManifestSchema1), types.OCIConfigJSON), &v1.ConfigFile{
		OS: "linux", Architecture: "amd64", Created: v1.Time{Time: DefaultEpoch}, RootFS: v1.RootFS{Type: "layers"}, Config: v1.Config{Labels: labels},
	})
	if err != nil {
		t.Fatal(err)
	}
	for i := range int64(3) {
		layer, err := random.Layer(1<<20, types.OCILayer, random.WithSource(rand.NewSource(1000+i)))
		if err != nil {
			t.Fatal(err)
		}
		if base, err = mutate.Append(base, mutate.Addendum{Layer: layer, History: v1.History{CreatedBy: fmt.Sprintf("RUN step %d", i)}}); err != nil {
			t.Fatal(err)
		}
	}
	appended, err := layers.Make(t.Context(), c, images, layers.Options{Layout: recipes.LayoutUnpacked, Max: 90, Epoch: DefaultEpoch})
	if err != nil {
		t.Fatal(err)
	}
	store, err := newStore(t.Context(), c, cri.Name, images, appended, nil, DefaultEpoch)
	if err != nil {
		t.Fatal(err)
	}
	img, err := store.appendTo(base, nil)
	if err != nil {
		t.Fatal(err)
	}
	return img
}

// checkNode reads the image at the reference, all of it, and fails the test unless it holds exactly the images.
func checkNode(t *testing.T, r *countingRegistry, reference string, references ...string) *inspect.Report {
	t.Helper()
	img := r.pull(t, reference)
	if err := validate.Image(img); err != nil {
		t.Errorf("%s is not valid: %v", reference, err)
	}
	c := newCache(t)
	store, err := readStoreLayer(t.Context(), c, img, reference)
	if err != nil {
		t.Fatal(err)
	}
	if err := preload.VerifyImage(t.Context(), nil, img, store.contents.Images); err != nil {
		t.Error(err)
	}
	report, err := inspect.Image(img, reference)
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(references)
	var got, labelled []string
	for _, image := range store.contents.Images {
		got = append(got, image.Reference)
	}
	for _, image := range report.Preloaded {
		labelled = append(labelled, image.Reference)
	}
	if !slices.Equal(got, references) || !slices.Equal(labelled, references) {
		t.Errorf("%s holds %q and says that it holds %q, want %q", reference, got, labelled, references)
	}
	// Every image is unpacked: the snapshot of its last layer is there.
	needed, _, err := needs(c, store.contents.Images, store.contents.Snapshots())
	if err != nil {
		t.Fatal(err)
	}
	for _, image := range store.contents.Images {
		parts, err := preload.ReadParts(c, image)
		if err != nil {
			t.Fatal(err)
		}
		if chain, err := lastChain(c, parts); err != nil || !needed.snapshots[chain] {
			t.Errorf("%s is not unpacked in %s (%v)", image.Reference, reference, err)
		}
	}
	if len(report.Layers) != len(store.contents.Layers)+4 {
		t.Errorf("%s has %d layers, of which %d hold images: %+v", reference, len(report.Layers), len(store.contents.Layers), report.Layers)
	}
	return report
}

func TestPreload(t *testing.T) {
	r := newRegistry(t)
	pause := r.push(t, "k8s/pause:3", appImage(t, 1000, 2))
	shop := r.push(t, "shop:1", appImage(t, 12<<20, 3))
	builtIn := newCache(t)
	node := r.push(t, "nodes/test:1", testNode(t, builtIn, pause, shop))
	original := r.pull(t, node)
	checkNode(t, r, node, pause, shop)
	run := func(target, tag string, change func(*PreloadOptions)) *Result {
		t.Helper()
		// Every change happens on a machine that has seen nothing yet.
		o := PreloadOptions{Options: Options{Cache: newCache(t), Push: true, Tags: []string{r.host + "/" + tag}}}
		change(&o)
		result, err := Preload(t.Context(), target, o)
		if err != nil {
			t.Fatal(err)
		}
		return result
	}
	add := func(references ...string) func(*PreloadOptions) {
		return func(o *PreloadOptions) {
			for _, reference := range references {
				o.Add = append(o.Add, recipes.ImageSource{Registry: reference})
			}
		}
	}
	remove := func(references ...string) func(*PreloadOptions) {
		return func(o *PreloadOptions) { o.Remove = references }
	}

	app := r.push(t, "app:1", appImage(t, 12<<20, 4))
	r.take("")
	run(node, "nodes/test:added", add(app))
	manifest, err := original.Manifest()
	if err != nil {
		t.Fatal(err)
	}
	for _, request := range r.take("GET /v2/nodes/test/blobs/") {
		if !strings.HasSuffix(request, manifest.Config.Digest.String()) && !strings.HasSuffix(request, manifest.Layers[len(manifest.Layers)-1].Digest.String()) {
			t.Errorf("adding an image asked %s", request)
		}
	}
	report := checkNode(t, r, r.host+"/nodes/test:added", app, pause, shop)
	if len(report.Changed) != 1 || report.Changed[0].Reference != app || report.Changed[0].Before != "" {
		t.Errorf("changed is %+v", report.Changed)
	}
	// The layer that both images share is there once: of the new one only the other is new.
	added := r.pull(t, r.host+"/nodes/test:added")
	all, err := added.Manifest()
	if err != nil {
		t.Fatal(err)
	}
	if len(all.Layers) != len(manifest.Layers)+1 {
		t.Errorf("adding an image whose first layer is there made %d layers of %d", len(all.Layers), len(manifest.Layers))
	}

	removed := run(r.host+"/nodes/test:added", "nodes/test:removed", remove(app))
	if hash, err := original.Digest(); err != nil || removed.Digest != hash {
		t.Errorf("after adding and removing, the image is %s, before it was %s (%v)", removed.Digest, hash, err)
	}
	run(node, "nodes/test:bare", remove(shop))
	checkNode(t, r, r.host+"/nodes/test:bare", pause)

	r.push(t, "k8s/pause:3", appImage(t, 1000, 5))
	run(r.host+"/nodes/test:added", "nodes/test:replaced", add(pause))
	report = checkNode(t, r, r.host+"/nodes/test:replaced", app, pause, shop)
	if len(report.Changed) != 2 {
		t.Errorf("changed is %+v", report.Changed)
	}
	again := run(node, "nodes/test:both", add(app, pause))
	if hash, err := r.pull(t, r.host+"/nodes/test:both").Digest(); err != nil || hash != again.Digest {
		t.Errorf("pushed %s, %v; want %s", hash, err, again.Digest)
	}
	checkNode(t, r, r.host+"/nodes/test:both", app, pause, shop)
}

// TestPreloadPacked adds an image without its trees, and another one whose lower layer the first one shares.
func TestPreloadPacked(t *testing.T) {
	r, c := newRegistry(t), newCache(t)
	pause, app := r.push(t, "pause:3", appImage(t, 1000, 2)), r.push(t, "app:1", appImage(t, 12<<20, 4))
	node := r.push(t, "node:1", testNode(t, c, pause))
	dir := t.TempDir()
	result, err := Preload(t.Context(), node, PreloadOptions{
		Options: Options{Cache: c, Outputs: []publish.Output{{Type: publish.OutputOCI, Dest: dir}}},
		Layout:  recipes.LayoutPacked, Add: []recipes.ImageSource{{Registry: app}},
	})
	if err != nil {
		t.Fatal(err)
	}
	if want := dir + "@" + result.Digest.String(); !slices.Equal(result.References, []string{want}) {
		t.Errorf("the references are %q, want %q", result.References, want)
	}
	img, closer, err := inspect.Open(t.Context(), dir, inspect.Options{NoGuess: true})
	if err != nil {
		t.Fatal(err)
	}
	defer closer.Close()
	store, err := readStoreLayer(t.Context(), c, img, dir)
	if err != nil {
		t.Fatal(err)
	}
	if err := preload.VerifyImage(t.Context(), nil, img, store.contents.Images); err != nil {
		t.Error(err)
	}
	// The pause image keeps its two snapshots; the new one has none of its own.
	if got := store.contents.Snapshots(); len(got) != 2 {
		t.Errorf("the image holds %d snapshots", len(got))
	}
	text, err := json.Marshal(store.contents)
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(text), `"source":{"registry"`) {
		t.Errorf("the node says where images came from: %s", text)
	}
}

// BenchmarkPreload adds an image of 100 MB to a node image in a registry on loopback, on a machine that has seen neither. It is without
// the start of the program; test/cli has the comparison with docker build.
func BenchmarkPreload(b *testing.B) {
	r, c := newRegistry(b), newCache(b)
	node := r.push(b, "node:1", testNode(b, c, r.push(b, "pause:3", appImage(b, 1000, 2))))
	for i := int64(0); b.Loop(); i++ {
		b.StopTimer()
		app := r.push(b, fmt.Sprintf("app:%d", i), appImage(b, 100_000_000, time.Now().UnixNano()))
		o := PreloadOptions{Options: Options{Cache: newCache(b), Push: true, Tags: []string{fmt.Sprintf("%s/changed:%d", r.host, i)}}}
		o.Add = []recipes.ImageSource{{Registry: app}}
		b.StartTimer()
		if _, err := Preload(b.Context(), node, o); err != nil {
			b.Fatal(err)
		}
	}
}
