package cli

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/plugins/content/local"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/opencontainers/go-digest"
	"github.com/tonistiigi/fsutil"

	"github.com/nodeimg/nodeimg/builder"
	"github.com/nodeimg/nodeimg/builder/child"
	"github.com/nodeimg/nodeimg/internal/cache"
	"github.com/nodeimg/nodeimg/preload"
	"github.com/nodeimg/nodeimg/recipes"
)

func TestPrintDockerfile(t *testing.T) {
	w := newWorkplace(t)
	w.standard()
	for engine, words := range map[recipes.Engine][]string{
		recipes.EngineDirect: {"Preloaded images are no part of it"},
		recipes.EngineInner:  {"docker.io/library/standard:1", recipes.StorePath},
	} {
		w.recipe(func(spec *recipes.Spec) {
			spec.Mirrors["docker.io"] = "http://" + hub().host
			spec.Preload = recipes.Preload{ControlPlane: spec.Preload.ControlPlane, Engine: engine, Images: []recipes.ImageSource{{Registry: "standard:1"}}}
		})
		text := w.run("dockerfile", "recipe.yaml").succeeded().stdout
		for _, word := range append(words, "FROM base AS system\n", "ENTRYPOINT ") {
			if !strings.Contains(text, word) {
				t.Errorf("the Dockerfile of engine %s has no %q:\n%s", engine, word, text)
			}
		}
	}
	if got := w.entries("."); !slices.Equal(got, []string{"recipe.yaml"}) {
		t.Errorf("printing left %q", got)
	}
}

// TestBuildContext builds the context that "nodeimg dockerfile -o" writes as "docker buildx bake" would: with a BuildKit that knows
// nothing of nodeimg, its cache or its broker.
func TestBuildContext(t *testing.T) {
	w := newWorkplace(t)
	w.standard(fromModules)
	out := w.run("dockerfile", "recipe.yaml", "-o", "context").succeeded()
	if out.stdout != "" {
		t.Errorf("it printed %q", out.stdout)
	}
	w.run("dockerfile", "recipe.yaml", "-o", "context").failed(2, "context", "not empty")

	var bake struct {
		Target map[string]struct {
			Context, Dockerfile string
			Contexts, Args      map[string]string
			Platforms           []string
		}
	}
	text, err := os.ReadFile(w.path("context", "docker-bake.json"))
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(text, &bake); err != nil {
		t.Fatal(err)
	}
	target, ok := bake.Target["default"]
	if !ok || len(target.Platforms) != 1 {
		t.Fatalf("the bake file names no target for one platform: %s", text)
	}
	dockerfile, err := os.ReadFile(w.path("context", target.Context, target.Dockerfile))
	if err != nil {
		t.Fatal(err)
	}
	epoch, err := strconv.ParseInt(target.Args["SOURCE_DATE_EPOCH"], 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	request := builder.Request{
		Name: "context", Dockerfile: dockerfile, Platform: target.Platforms[0], Epoch: time.Unix(epoch, 0), Output: t.TempDir(),
		Contexts: map[string]fsutil.FS{}, Layouts: map[string]builder.Layout{},
	}
	for name, where := range target.Contexts {
		folder, isLayout := strings.CutPrefix(where, "oci-layout://")
		if !isLayout {
			if request.Contexts[name], err = fsutil.NewFS(w.path("context", where)); err != nil {
				t.Fatal(err)
			}
			continue
		}
		// PATH[:TAG][@DIGEST]; the paths here hold no colon.
		folder, d, _ := strings.Cut(folder, "@")
		folder, _, _ = strings.Cut(folder, ":")
		store, err := local.NewStore(w.path("context", folder))
		if err != nil {
			t.Fatal(err)
		}
		request.Layouts[name] = builder.Layout{Store: store, Digest: digest.Digest(d)}
	}
	empty, err := cache.Open(filepath.Join(t.TempDir(), "cache"))
	if err != nil {
		t.Fatal(err)
	}
	b, err := child.New(child.Options{Cache: empty, Buildkitd: buildkitd})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := b.Close(); err != nil {
			t.Error(err)
		}
	}()
	result, err := builder.Solve(t.Context(), b, request)
	if err != nil {
		t.Fatal(err)
	}
	folder, err := layout.ImageIndexFromPath(request.Output)
	if err != nil {
		t.Fatal(err)
	}
	index, err := folder.IndexManifest()
	if err != nil {
		t.Fatal(err)
	}
	if len(index.Manifests) != 1 || index.Manifests[0].Digest.String() != result.Digest.String() {
		t.Fatalf("the layout holds %+v, want %s", index.Manifests, result.Digest)
	}
	image, err := folder.Image(index.Manifests[0].Digest)
	if err != nil {
		t.Fatal(err)
	}
	lock := w.lock()
	if err := preload.VerifyImage(t.Context(), nil, image, lock.Images); err != nil {
		t.Error(err)
	}
	report := w.inspect(request.Output)
	if report.Kubernetes != "v1.34.10" || !slices.Equal(report.Preloaded, preloaded(lock)) {
		t.Errorf("inspect does not agree with the lock: %+v", report)
	}
}
