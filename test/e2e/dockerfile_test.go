package e2e

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	imagespec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/nodeimg/nodeimg/test/internal/application"
	"github.com/nodeimg/nodeimg/test/internal/command"
	"github.com/nodeimg/nodeimg/test/internal/node"
	"github.com/nodeimg/nodeimg/test/internal/tools"
)

// registryName is where build steps find the registry, by its container's name.
const registryName = "registry"

// The ways to pull in a Dockerfile: with the node's script, by way of a mirror, and by hand.
var (
	withScript = map[string]string{
		"Dockerfile": "FROM BASE\nCOPY hosts.toml /etc/containerd/certs.d/docker.io/\nRUN /usr/lib/nodeimg/pull-images.sh docker.io/example/script:v1\n",
		"hosts.toml": "[host.\"http://" + registryName + ":5000\"]\n  capabilities = [\"pull\", \"resolve\"]\n",
	}
	byHand = map[string]string{
		"Dockerfile": "FROM BASE\nCOPY inner-image-pull.sh /usr/bin/\nRUN inner-image-pull.sh && rm /usr/bin/inner-image-pull.sh\n",
		"inner-image-pull.sh": "#!/bin/sh\nset -eu\ncontainerd >/var/log/containerd.log 2>&1 &\nuntil ctr version >/dev/null 2>&1; do sleep 0.1; done\n" +
			"ctr --namespace=k8s.io content fetch --plain-http " + registryName + ":5000/example/hand:v1\n",
	}
)

// TestE2EUserDockerfile builds images from Dockerfiles that begin FROM a node image and pull in a step, with the Engine's own builder and
// no privileges: a node of them has the images pulled there beside the preloaded ones, and starts containers of both without a network.
func TestE2EUserDockerfile(t *testing.T) {
	docker, host := startEngine(t)
	environment := []string{"DOCKER_HOST=" + host}
	base := "nodeimg-e2e/base:" + suffix()
	nodeimg(t.Context(), t, environment, "build", filepath.Join(command.Root(t), "recipes", "k8s-node-source.yaml"), "-o", "type=docker", "-t", base)
	removeImage(t, docker, base)
	network := internalNetwork(t, docker)
	built := map[string]string{}
	serveImages(t, docker, network, func() {
		for name, files := range map[string]map[string]string{"script": withScript, "hand": byHand} {
			files["Dockerfile"] = strings.ReplaceAll(files["Dockerfile"], "BASE", base)
			built[name] = "nodeimg-e2e/" + name + ":" + suffix()
			said, err := docker.Build(t.Context(), built[name], network, files)
			if err != nil {
				t.Fatal(err)
			}
			t.Log(said)
			removeImage(t, docker, built[name])
		}
	})
	t.Run("script", func(t *testing.T) {
		n := start(t, docker, built["script"], network)
		pinned := pulledAndPreloaded(t, n, "docker.io/example/script:v1")
		if !pinned["docker.io/example/script:v1"] {
			t.Error("what the script pulled is not pinned")
		}
	})
	t.Run("by hand", func(t *testing.T) {
		n := start(t, docker, built["hand"], network)
		pulledAndPreloaded(t, n, registryName+":5000/example/hand:v1")
	})
	t.Run("inspect", func(t *testing.T) {
		if said := nodeimg(t.Context(), t, environment, "inspect", "docker:"+built["script"]); !strings.Contains(said, "registry.k8s.io/etcd:") {
			t.Errorf("inspect does not name the preloaded images:\n%s", said)
		}
	})
	t.Run("preload", func(t *testing.T) { preloadOnTop(t, docker, environment, built["script"], network) })
}

// pulledAndPreloaded boots a node and holds that the pulled image and the preloaded ones are complete and start. It returns which images
// are pinned.
func pulledAndPreloaded(t *testing.T, n *node.Node, pulled string) map[string]bool {
	t.Helper()
	if err := n.WaitBooted(t.Context(), wait); err != nil {
		t.Fatal(err)
	}
	pinned := runtimeImages(t, n)
	if _, ok := pinned[pulled]; !ok {
		t.Errorf("the runtime does not know %s, which a build step pulled (%v)", pulled, pinned)
	}
	storePinned(t, n, pinned)
	etcd := ""
	for reference := range pinned {
		if strings.HasPrefix(reference, "registry.k8s.io/etcd:") {
			etcd = reference
		}
	}
	answers(t, n, etcd, []string{"etcd", "--data-dir=/data"}, "2379/health", `"health":"true"`)
	answers(t, n, pulled, nil, "8080/", "hello from a preloaded image")
	noPull(t, n)
	return pinned
}

// answers starts a container of the image as the kubelet would, on the node's network, and waits until it gives the answer wanted.
func answers(t *testing.T, n *node.Node, image string, command []string, target, want string) {
	t.Helper()
	pod := map[string]any{
		"metadata":      map[string]any{"name": "test", "namespace": "default", "uid": "test"},
		"log_directory": "/tmp",
		"linux":         map[string]any{"cgroup_parent": "system.slice", "security_context": map[string]any{"namespace_options": map[string]any{"network": 2}}},
	}
	container := map[string]any{"metadata": map[string]any{"name": "test"}, "image": map[string]any{"image": image}, "command": command, "log_path": "test.log", "linux": map[string]any{}}
	for name, value := range map[string]any{"/tmp/pod.json": pod, "/tmp/container.json": container} {
		text, err := json.Marshal(value)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := n.ExecInput(t.Context(), bytes.NewReader(text), "tee", name); err != nil {
			t.Fatal(err)
		}
	}
	must(t, n, "crictl", "run", "--no-pull", "/tmp/container.json", "/tmp/pod.json")
	port, file, _ := strings.Cut(target, "/")
	script := `exec 3<>"/dev/tcp/127.0.0.1/$1"; printf 'GET /%s HTTP/1.0\r\n\r\n' "$2" >&3; cat <&3`
	if _, err := n.WaitFor(t.Context(), wait, func(out string) bool { return strings.Contains(out, want) }, "timeout", "10", "bash", "-c", script, "ask", port, file); err != nil {
		log, _ := n.Exec(t.Context(), "cat", "/tmp/test.log")
		t.Fatalf("%s: %v\n%s", image, err, log)
	}
	must(t, n, "crictl", "rmp", "--all", "--force")
}

// preloadOnTop adds an image with nodeimg preload to one that a Dockerfile made, and holds that a node of the result has all three kinds.
func preloadOnTop(t *testing.T, docker *node.Docker, environment []string, built, network string) {
	t.Helper()
	folder := t.TempDir()
	index, err := layout.Write(folder, empty.Index)
	if err != nil {
		t.Fatal(err)
	}
	const added = "docker.io/example/added:v1"
	if err := index.AppendImage(namedApp(t, added), layout.WithAnnotations(map[string]string{imagespec.AnnotationRefName: added})); err != nil {
		t.Fatal(err)
	}
	reference := "nodeimg-e2e/added:" + suffix()
	nodeimg(t.Context(), t, environment, "preload", "docker:"+built, "-i", "layout:"+folder, "--load", "-t", reference)
	removeImage(t, docker, reference)
	pinned := pulledAndPreloaded(t, start(t, docker, reference, network), "docker.io/example/script:v1")
	if !pinned[added] {
		t.Errorf("the image that nodeimg preload added is not among the pinned ones (%v)", pinned)
	}
}

// namedApp is the application with a label: images of other names are other images with the same layer.
func namedApp(t *testing.T, name string) v1.Image {
	t.Helper()
	image, err := mutate.Config(application.For(t), v1.Config{Entrypoint: []string{"/app"}, User: "65532:65532", Labels: map[string]string{"name": name}})
	if err != nil {
		t.Fatal(err)
	}
	return image
}

// serveImages runs a registry with the images that the Dockerfiles pull while f runs.
func serveImages(t *testing.T, docker *node.Docker, network string, f func()) {
	t.Helper()
	program, err := tools.Command(t.Context(), "test/cmd/registry")
	if err != nil {
		t.Fatal(err)
	}
	images := t.TempDir()
	index, err := layout.Write(images, empty.Index)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"example/script:v1", "example/hand:v1"} {
		if err := index.AppendImage(namedApp(t, name), layout.WithAnnotations(map[string]string{imagespec.AnnotationRefName: name})); err != nil {
			t.Fatal(err)
		}
	}
	reference := "nodeimg-e2e/registry:" + suffix()
	if err := docker.Import(t.Context(), reference, registryTree(t, program, images), `CMD ["/registry"]`); err != nil {
		t.Fatal(err)
	}
	removeImage(t, docker, reference)
	server, err := docker.Serve(t.Context(), reference, registryName, network)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := server.Remove(context.WithoutCancel(t.Context())); err != nil {
			t.Error(err)
		}
	}()
	if err := server.WaitSaid(t.Context(), wait, "ready"); err != nil {
		t.Fatal(err)
	}
	f()
}

// registryTree is the root file system of the registry's container.
func registryTree(t *testing.T, program, images string) *bytes.Buffer {
	t.Helper()
	var archive bytes.Buffer
	w := tar.NewWriter(&archive)
	add := func(file, name string) {
		content, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if err := w.WriteHeader(&tar.Header{Name: name, Mode: 0o755, Size: int64(len(content))}); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(content); err != nil {
			t.Fatal(err)
		}
	}
	add(program, "registry")
	err := fs.WalkDir(os.DirFS(images), ".", func(name string, entry fs.DirEntry, err error) error {
		if err == nil && !entry.IsDir() {
			add(filepath.Join(images, name), path.Join("images", name))
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return &archive
}

// removeImage removes the image when the test ends.
func removeImage(t *testing.T, docker *node.Docker, reference string) {
	t.Helper()
	clean := context.WithoutCancel(t.Context())
	t.Cleanup(func() { _ = docker.RemoveImage(clean, reference) })
}
