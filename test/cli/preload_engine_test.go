package cli

import (
	"bytes"
	"slices"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/opencontainers/go-digest"

	"github.com/nodeimg/nodeimg/internal/dockerengine"
	"github.com/nodeimg/nodeimg/nodeimage/inspect"
	"github.com/nodeimg/nodeimg/recipes"
	"github.com/nodeimg/nodeimg/test/internal/engine"
)

// startEngine starts a Docker Engine that nodeimg in w finds.
func (w *workplace) startEngine() *dockerengine.Engine {
	w.t.Helper()
	running, err := engine.Start(w.t.Context(), engine.Options{})
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() {
		if err := running.Stop(); err != nil {
			w.t.Error(err)
		}
	})
	w.env = append(w.env, "DOCKER_HOST="+running.Host())
	w.t.Setenv("DOCKER_HOST", running.Host())
	client, err := dockerengine.Open(w.t.Context())
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { _ = client.Close() })
	return client
}

// loadImage puts an image into the Engine.
func loadImage(t *testing.T, client *dockerengine.Engine, reference string, image v1.Image) {
	t.Helper()
	tag, err := name.NewTag(reference)
	if err != nil {
		t.Fatal(err)
	}
	var archive bytes.Buffer
	if err := tarball.Write(tag, image, &archive); err != nil {
		t.Fatal(err)
	}
	if err := client.Load(t.Context(), &archive, nil); err != nil {
		t.Fatal(err)
	}
}

// TestPreloadInEngine is what a developer does again and again: an image just built goes into the node image of the local Engine.
func TestPreloadInEngine(t *testing.T) {
	w, r := newWorkplace(t), startRegistry(t, "", "")
	client := w.startEngine()
	w.pushNode(r, recipes.EngineDirect)
	w.build("-o", "type=docker", "-t", "node:v1")
	loadImage(t, client, "app:dev", newImage(t, 230))
	stranger := w.elsewhere()
	stranger.preload("docker:node:v1", "-i", "docker:app:dev", "--load", "-t", "node:dev").reference()
	checkEngineImage(t, stranger, "docker:node:dev", newImage(t, 230))

	// The next turn of the loop, on the same name, takes the place of the first.
	loadImage(t, client, "app:dev", newImage(t, 231))
	stranger.preload("docker:node:dev", "-i", "docker:app:dev", "--load", "-t", "node:dev").reference()
	checkEngineImage(t, stranger, "docker:node:dev", newImage(t, 231))

	out := stranger.preload("docker:node:v1", "-i", "docker:app:dev", "-o", "type=oci,dest=out", "--push", "-t", r.host+"/nodes/small:dev")
	want := r.host + "/nodes/small@" + mustDigest(t, w.layoutImage("out")).String() + "\nout@" + mustDigest(t, w.layoutImage("out")).String() + "\n"
	if out.stdout != want {
		t.Errorf("printed %q, want %q", out.stdout, want)
	}
	if got, want := layerCount(t, w.layoutImage("out")), layerCount(t, r.pull(t, "nodes/small:v1"))+1; got != want {
		t.Errorf("the result has %d layers, want %d", got, want)
	}
	stranger.run("preload", "docker:missing:1", "-i", "docker:app:dev", "--load", "-t", "node:dev").failed(2, "missing:1")
	stranger.run("preload", "docker:node:v1", "-i", "docker:missing:1", "--load", "-t", "node:dev").failed(2, "missing:1")
	stranger.run("preload", "docker:node:v1", "-i", "docker:app:dev").failed(2, "--load -t node:v1")
}

// checkEngineImage reads the whole node image out of the Engine.
func checkEngineImage(t *testing.T, w *workplace, target string, app v1.Image) {
	t.Helper()
	image, closer, err := inspect.Open(t.Context(), target, inspect.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer closer.Close()
	checkStore(t, image)
	report := w.inspect(target)
	i := slices.IndexFunc(report.Preloaded, func(p recipes.Preloaded) bool { return p.Reference == "docker.io/library/app:dev" })
	if i < 0 {
		t.Fatalf("%s does not hold the image: %+v", target, report.Preloaded)
	}
	held := report.Preloaded[i].Digest
	part, contents := storeLayers(t, image)
	for _, locked := range contents.Images {
		if locked.Digest == held {
			checkContent(t, target, app, digest.Digest(locked.Manifest), storeBlobs(t, part))
		}
	}
}
