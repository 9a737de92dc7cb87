package conformance

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/nodeimg/nodeimg/builder/child"
	"github.com/nodeimg/nodeimg/builder/display"
	"github.com/nodeimg/nodeimg/builder/publish"
	"github.com/nodeimg/nodeimg/internal/cache"
	"github.com/nodeimg/nodeimg/internal/dockerengine"
	"github.com/nodeimg/nodeimg/internal/progress"
	"github.com/nodeimg/nodeimg/nodeimage"
	"github.com/nodeimg/nodeimg/recipes"
	"github.com/nodeimg/nodeimg/test/internal/engine"
	"github.com/nodeimg/nodeimg/test/internal/node"
	"github.com/nodeimg/nodeimg/test/internal/tools"
)

// bootLimit is a generous limit for a node on a machine that is busy.
const bootLimit = 5 * time.Minute

// machine is where node images are built and booted.
type machine struct {
	store  *cache.Cache
	engine *dockerengine.Engine
	docker *node.Docker
}

// openMachine connects to a Docker Engine, that of the user or one that ends with the test.
func openMachine(t *testing.T) *machine {
	t.Helper()
	store, err := cache.Open("")
	if err != nil {
		t.Fatal(err)
	}
	running, err := engine.Open(t.Context(), engine.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := running.Stop(); err != nil {
			t.Error(err)
		}
	})
	t.Setenv("DOCKER_HOST", running.Host())
	m := &machine{store: store}
	if m.engine, err = dockerengine.Open(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = m.engine.Close() })
	if m.docker, err = node.Connect(t.Context(), running.Host()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = m.docker.Close() })
	return m
}

// document is the recipe of a small node with every image of the table.
func (c combination) document(dir, host string) *recipes.Document {
	r := recipes.Recipe{
		APIVersion: recipes.APIVersion, Kind: recipes.Kind, Metadata: recipes.Metadata{Name: "conformance"},
		Spec: recipes.Spec{
			Kubernetes: recipes.Kubernetes{Version: "v1.34.10", Source: recipes.SourceModules},
			Base:       recipes.Base{Distro: "debian", Release: "12", From: recipes.FromPackages},
			CRI:        recipes.CRI{Name: c.cri},
			CNI:        recipes.CNI{Name: recipes.CNINone},
			Packages:   views[c.cri].packages,
			Preload:    recipes.Preload{ControlPlane: new(bool), Engine: c.engine, Layout: c.layout},
			Mirrors:    map[string]string{registryName: "http://" + host},
		},
	}
	for _, row := range c.rows {
		r.Spec.Preload.Images = append(r.Spec.Preload.Images, recipes.ImageSource{Registry: row.reference(c.seeds)})
	}
	r.Default()
	return &recipes.Document{File: "conformance.yaml", Dir: dir, Recipe: r}
}

// build builds the node image into the Engine and returns its name.
func (m *machine) build(t *testing.T, c combination, host string) string {
	t.Helper()
	buildkitd, err := tools.Buildkitd(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	b, err := child.New(child.Options{Cache: m.store, Buildkitd: buildkitd, Runtime: c.runtime})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := b.Close(); err != nil {
			t.Error(err)
		}
	}()
	var said bytes.Buffer
	screen, err := display.New("plain", &said)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		screen.Close()
		if t.Failed() {
			t.Logf("the build said:\n%s", said.String())
			return
		}
		long := slices.DeleteFunc(screen.Timings(), func(step display.Timing) bool { return step.Duration() < time.Second })
		said.Reset()
		if err := display.PrintTimings(&said, long[:min(10, len(long))]); err != nil {
			t.Error(err)
		}
		t.Logf("the longest steps of the build:\n%s", said.String())
	}()
	reference := "nodeimg-conformance/" + c.name() + ":" + suffix()
	if _, err := nodeimage.Build(progress.WithSink(t.Context(), screen.Sink()), c.document(t.TempDir(), host), nodeimage.Options{
		Cache: m.store, Builder: b, Engine: m.engine, Tags: []string{reference}, Outputs: []publish.Output{{Type: publish.OutputDocker}},
	}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := m.docker.RemoveImage(context.WithoutCancel(t.Context()), reference); err != nil {
			t.Error(err)
		}
	})
	return reference
}

// dumpInNode is where nodes have the dump program, dumpInContainer where containers have it.
const dumpInNode, dumpInContainer = "/opt/conformance-dump", "/conformance-dump"

// boot starts a node of the image, without a network, and puts the dump program into it. The node ends with the test.
func (m *machine) boot(t *testing.T, reference string) *node.Node {
	t.Helper()
	n, err := m.docker.Start(t.Context(), node.Options{Image: reference, Name: "nodeimg-conformance-" + suffix(), Network: "none"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := n.Remove(context.WithoutCancel(t.Context())); err != nil {
			t.Error(err)
		}
	})
	if err := n.WaitBooted(t.Context(), bootLimit); err != nil {
		t.Fatal(err)
	}
	program, err := os.Open(dump)
	if err != nil {
		t.Fatal(err)
	}
	defer program.Close()
	if _, err := n.ExecInput(t.Context(), program, "sh", "-c", "cat >"+dumpInNode+" && chmod 0755 "+dumpInNode); err != nil {
		t.Fatal(err)
	}
	return n
}

// suffix makes names that no other run uses at the same time.
func suffix() string { return fmt.Sprintf("%d-%x", os.Getpid(), time.Now().UnixNano()&0xffffff) }
