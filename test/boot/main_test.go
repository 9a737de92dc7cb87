package boot

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"

	"github.com/nodeimg/nodeimg/builder/child"
	"github.com/nodeimg/nodeimg/builder/publish"
	"github.com/nodeimg/nodeimg/internal/cache"
	"github.com/nodeimg/nodeimg/internal/dockerengine"
	"github.com/nodeimg/nodeimg/nodeimage"
	"github.com/nodeimg/nodeimg/recipes"
	"github.com/nodeimg/nodeimg/test/internal/archive"
	"github.com/nodeimg/nodeimg/test/internal/engine"
	"github.com/nodeimg/nodeimg/test/internal/node"
	"github.com/nodeimg/nodeimg/test/internal/registry"
	"github.com/nodeimg/nodeimg/test/internal/tools"
)

func TestMain(m *testing.M) {
	// The tests start builders in this process.
	child.Init()
	os.Exit(m.Run())
}

// limit is a generous one for a condition on a machine that is busy.
const limit = 5 * time.Minute

// machine is where node images are built and booted.
type machine struct {
	engine *dockerengine.Engine
	docker *node.Docker
	// host is that of a registry with the images.
	host string
}

// registryName is the host in the images' names, whose mirror the registry is.
const registryName = "boot.example.com"

func openMachine(t *testing.T) *machine {
	t.Helper()
	m := &machine{host: registry.Start(t)}
	running, err := engine.Open(t.Context(), engine.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Log("the Engine's log:\n" + running.Log())
		}
		if err := running.Stop(); err != nil {
			t.Error(err)
		}
	})
	t.Setenv("DOCKER_HOST", running.Host())
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

// suffix makes names that no other run uses at the same time.
func suffix() string { return fmt.Sprintf("%d-%x", os.Getpid(), time.Now().UnixNano()&0xffffff) }

// push puts an image with the layers into the registry and returns its name.
func (m *machine) push(t *testing.T, path string, layers ...v1.Layer) string {
	t.Helper()
	image, err := mutate.ConfigFile(empty.Image, &v1.ConfigFile{
		OS: "linux", Architecture: "amd64", Config: v1.Config{Entrypoint: []string{"/look"}}, RootFS: v1.RootFS{Type: "layers"},
	})
	if err != nil {
		t.Fatal(err)
	}
	if image, err = mutate.AppendLayers(image, layers...); err != nil {
		t.Fatal(err)
	}
	reference, err := name.ParseReference(m.host + "/" + path)
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.Write(reference, image, remote.WithContext(t.Context())); err != nil {
		t.Fatal(err)
	}
	return registryName + "/" + path
}

// programLayer holds the program that every image of these tests runs.
func programLayer(t *testing.T) v1.Layer {
	t.Helper()
	file, err := tools.Command(t.Context(), "test/boot/testdata/look")
	if err != nil {
		t.Fatal(err)
	}
	program, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return layer(t, tar.Header{Name: "look", Mode: 0o755}, program)
}

// fileLayer holds a file that only belongs to its image as long as owner and mode are right.
func fileLayer(t *testing.T, name string) v1.Layer {
	t.Helper()
	return layer(t, tar.Header{Name: "image/" + name, Mode: 0o4711, Uid: 1234, Gid: 70000}, []byte(name))
}

func layer(t *testing.T, header tar.Header, content []byte) v1.Layer {
	t.Helper()
	made, err := archive.Layer(archive.File{Header: header, Content: content})
	if err != nil {
		t.Fatal(err)
	}
	return made
}

// build builds a small node with the images into the Engine and returns its name.
func (m *machine) build(t *testing.T, images ...string) string {
	t.Helper()
	r := recipes.Recipe{
		APIVersion: recipes.APIVersion, Kind: recipes.Kind, Metadata: recipes.Metadata{Name: "boot"},
		Spec: recipes.Spec{
			Kubernetes: recipes.Kubernetes{Version: "v1.34.10", Source: recipes.SourceModules},
			Base:       recipes.Base{Distro: "debian", Release: "12", From: recipes.FromPackages},
			CNI:        recipes.CNI{Name: recipes.CNINone},
			Preload:    recipes.Preload{ControlPlane: new(bool)},
			Mirrors:    map[string]string{registryName: "http://" + m.host},
		},
	}
	for _, image := range images {
		r.Spec.Preload.Images = append(r.Spec.Preload.Images, recipes.ImageSource{Registry: image})
	}
	r.Default()
	store, err := cache.Open("")
	if err != nil {
		t.Fatal(err)
	}
	buildkitd, err := tools.Buildkitd(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	b, err := child.New(child.Options{Cache: store, Buildkitd: buildkitd, Runtime: "runc"})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := b.Close(); err != nil {
			t.Error(err)
		}
	}()
	reference := "nodeimg-boot/node:" + suffix()
	if _, err := nodeimage.Build(t.Context(), &recipes.Document{File: "boot.yaml", Dir: t.TempDir(), Recipe: r}, nodeimage.Options{
		Cache: store, Builder: b, Engine: m.engine, Tags: []string{reference}, Outputs: []publish.Output{{Type: publish.OutputDocker}},
	}); err != nil {
		t.Fatal(err)
	}
	m.forget(t, reference)
	return reference
}

// forget removes the image when the test ends.
func (m *machine) forget(t *testing.T, reference string) {
	t.Helper()
	clean := context.WithoutCancel(t.Context())
	t.Cleanup(func() {
		if err := m.docker.RemoveImage(clean, reference); err != nil {
			t.Error(err)
		}
	})
}

// booted starts a node, without a network unless the options name one, and waits for it. The node ends with the test.
func (m *machine) booted(t *testing.T, options node.Options) *started {
	t.Helper()
	options.Name = "nodeimg-boot-" + suffix()
	if options.Network == "" {
		options.Network = "none"
	}
	n, err := m.docker.Start(t.Context(), options)
	if err != nil {
		t.Fatal(err)
	}
	s := &started{Node: n}
	clean := context.WithoutCancel(t.Context())
	t.Cleanup(func() {
		if t.Failed() && !s.removed {
			console, _ := n.Console(clean)
			log, _ := n.Exec(clean, "journalctl", "--no-pager", "-n", "60", "-u", "nodeimg-store", "-u", "nodeimg-register", "-u", "containerd")
			t.Log(console, log)
		}
		s.remove(t)
	})
	if err := n.WaitBooted(t.Context(), limit); err != nil {
		t.Fatal(err)
	}
	return s
}

// started is a node that runs.
type started struct {
	*node.Node
	removed bool
}

func (s *started) remove(t *testing.T) {
	t.Helper()
	if s.removed {
		return
	}
	s.removed = true
	if err := s.Remove(context.WithoutCancel(t.Context())); err != nil {
		t.Error(err)
	}
}

func (s *started) must(t *testing.T, command ...string) string {
	t.Helper()
	out, err := s.Exec(t.Context(), command...)
	if err != nil {
		t.Fatalf("%s: %v\n%s", strings.Join(command, " "), err, out)
	}
	return out
}

// sees runs a container of the image as the kubelet would, on the node's own network, and holds that it sees exactly the files of its
// layers.
func (s *started) sees(t *testing.T, image string, files ...string) {
	t.Helper()
	pod := map[string]any{
		"metadata":      map[string]any{"name": "test", "namespace": "default", "uid": "test"},
		"log_directory": "/tmp/logs",
		"linux":         map[string]any{"cgroup_parent": "system.slice", "security_context": map[string]any{"namespace_options": map[string]any{"network": 2}}},
	}
	container := map[string]any{"metadata": map[string]any{"name": "test"}, "image": map[string]any{"image": image}, "log_path": "test.log", "linux": map[string]any{}}
	s.must(t, "sh", "-c", "rm -rf /tmp/logs && mkdir /tmp/logs")
	for name, value := range map[string]any{"/tmp/pod.json": pod, "/tmp/container.json": container} {
		text, err := json.Marshal(value)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := s.ExecInput(t.Context(), bytes.NewReader(text), "tee", name); err != nil {
			t.Fatal(err)
		}
	}
	s.must(t, "crictl", "run", "--no-pull", "/tmp/container.json", "/tmp/pod.json")
	out, err := s.WaitFor(t.Context(), limit, func(out string) bool { return strings.Contains(out, "saw all") }, "cat", "/tmp/logs/test.log")
	if err != nil {
		t.Fatal(err)
	}
	s.must(t, "crictl", "rmp", "--all", "--force")
	for _, file := range files {
		if want := fmt.Sprintf("saw 104711 1234:70000 %d /image/%s\n", len(file), file); !strings.Contains(out, want) {
			t.Errorf("a container of %s does not see %q but\n%s", image, want, out)
		}
	}
	if got := strings.Count(out, "saw 104711"); got != len(files) {
		t.Errorf("a container of %s sees %d files, want %d:\n%s", image, got, len(files), out)
	}
}

// known holds that the runtime has exactly the images beside the sandbox's, complete, and under tag and digest.
func (s *started) known(t *testing.T, images ...string) {
	t.Helper()
	var listed struct {
		Images []struct {
			RepoTags, RepoDigests []string
			Pinned                bool
		}
	}
	if err := json.Unmarshal([]byte(s.must(t, "crictl", "images", "-o", "json")), &listed); err != nil {
		t.Fatal(err)
	}
	tags := map[string]bool{}
	for _, image := range listed.Images {
		for _, tag := range image.RepoTags {
			tags[tag] = image.Pinned && len(image.RepoDigests) > 0
		}
	}
	for _, image := range images {
		if right, ok := tags[image]; !ok || !right {
			t.Errorf("%s: known %v, pinned and with its digest %v; all: %v", image, ok, right, tags)
		}
	}
	for tag := range tags {
		if strings.HasPrefix(tag, registryName) && !strings.Contains(strings.Join(images, " "), tag) {
			t.Errorf("%s is there and should not be", tag)
		}
	}
	check := s.must(t, "ctr", "-n", "k8s.io", "images", "check")
	if strings.Count(check, " complete (") != strings.Count(check, "\n")-1 || strings.Contains(check, "incomplete") {
		t.Errorf("not all images are complete:\n%s", check)
	}
}

// stamp changes when anything below the store's folder does.
func (s *started) stamp(t *testing.T) string {
	t.Helper()
	return s.must(t, "sh", "-c", `find /usr/lib/nodeimg -printf '%p %y %m %U:%G %s %T@ %C@ %l\n' | sort | sha256sum`)
}
