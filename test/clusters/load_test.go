package clusters

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"

	"github.com/nodeimg/nodeimg/test/internal/application"
	"github.com/nodeimg/nodeimg/test/internal/archive"
	"github.com/nodeimg/nodeimg/test/internal/command"
)

// neverPulled is a pod on one node that runs an image which must be there already.
const neverPulled = `{"apiVersion": "v1", "kind": "Pod", "metadata": {"name": %q}, "spec": {"nodeName": %q, "tolerations": [{"operator": "Exists"}],
	"containers": [{"name": "app", "image": %q, "imagePullPolicy": "Never", "env": [{"name": "SECRET", "value": "value-in-a-pod"}],
	"readinessProbe": {"httpGet": {"path": "/", "port": 8080}, "periodSeconds": 1}}]}}`

// loads loads archives and an image of the Docker Engine into both nodes of a cluster, and runs them. Unpacked says that the nodes get files
// instead of layers.
func loads(l launcher, cluster string, unpacked bool) {
	t := l.t
	nodes := []string{cluster + "-control-plane-1", cluster + "-worker-1"}
	base := application.For(t)
	first, second := savedApp(t, "example/first:v1"), savedApp(t, "example/second:v1")
	l.docker("load", "--input", savedApp(t, "example/engine:v1"))
	defer l.docker("rmi", "example/engine:v1")
	baseSize := layerSize(t, base, unpacked)

	l.refused(2, "there is no cluster other", "load", "--name", "other", "archive:"+first)
	l.refused(2, "such a file", "load", "--name", cluster, first)
	reached := command.Stopwatch(t)
	l.docker("pause", nodes[1])
	l.refused(1, nodes[1]+" (paused)", "load", "--name", cluster, "archive:"+first)
	l.docker("unpause", nodes[1])
	if out := l.docker("exec", nodes[0], "crictl", "images"); strings.Contains(out, "example/first") {
		t.Errorf("something was loaded although a node is paused:\n%s", out)
	}

	for _, step := range []struct {
		source string
		// most and least are the bytes that a node may be sent.
		least, most int64
	}{
		{"archive:" + first, baseSize, 2 * baseSize},
		{"archive:" + second, ownLayer, ownLayer + 1<<16}, // The layer below is there already.
		{"docker:example/engine:v1", ownLayer, 1 << 40},
	} {
		sent, references := load(l, cluster, step.source)
		reached("loaded " + filepath.Base(step.source))
		if len(sent) != len(nodes) || len(references) != 1 {
			t.Fatalf("load %s: sent %v, printed %q", step.source, sent, references)
		}
		for _, node := range nodes {
			if sent[node] < step.least || sent[node] > step.most {
				t.Errorf("load %s: %s was sent %d bytes, expected %d to %d", step.source, node, sent[node], step.least, step.most)
			}
			tagged, digest, _ := strings.Cut(references[0], "@")
			for _, reference := range []string{tagged, strings.TrimSuffix(tagged, ":v1") + "@" + digest} {
				l.docker("exec", node, "crictl", "inspecti", "-q", reference)
			}
		}
	}
	sent, references := load(l, cluster, "archive:"+first, "archive:"+second, "docker:example/engine:v1")
	reached("loaded again")
	for _, node := range nodes {
		if n, ok := sent[node]; n != 0 || !ok {
			t.Errorf("a second load sent %s %d bytes", node, n)
		}
	}
	if len(references) != 3 {
		t.Fatalf("printed %q", references)
	}
	// One image by its tag, one by its digest, on both nodes.
	tagged, _, _ := strings.Cut(references[2], "@")
	digested := strings.Replace(references[0], ":v1@", "@", 1)
	for i, image := range []string{tagged, digested} {
		for j, node := range nodes {
			l.create(cluster, fmt.Sprintf(neverPulled, fmt.Sprintf("never-%d-%d", i, j), node, image))
		}
	}
	l.docker(append([]string{"exec", nodes[0]}, kubectl("wait", "--for=condition=Ready", "--timeout", wait.String(),
		"pod/never-0-0", "pod/never-0-1", "pod/never-1-0", "pod/never-1-1")...)...)
	reached("pods Ready")
}

// savedApp writes an archive with the application and a layer of its own.
func savedApp(t *testing.T, tag string) string {
	t.Helper()
	return savedImage(t, tag, withLayer(t, application.For(t), tag, ownLayer))
}

// savedImage writes an archive with the image.
func savedImage(t *testing.T, tag string, image v1.Image) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), strings.ReplaceAll(tag, "/", "-")+".tar")
	reference, err := name.NewTag(tag)
	if err != nil {
		t.Fatal(err)
	}
	if err := tarball.WriteToFile(file, reference, image); err != nil {
		t.Fatal(err)
	}
	return file
}

// create makes an object in the cluster, once the default service account is there.
func (l launcher) create(cluster, object string) {
	l.t.Helper()
	ctx, cancel := context.WithTimeout(l.t.Context(), wait)
	defer cancel()
	for {
		cmd := exec.CommandContext(ctx, "docker", append([]string{"exec", "-i", cluster + "-control-plane-1"}, kubectl("create", "-f", "-")...)...)
		cmd.Env = append(os.Environ(), "DOCKER_HOST="+l.host)
		cmd.Stdin = strings.NewReader(object)
		out, err := cmd.CombinedOutput()
		if err == nil {
			return
		}
		select {
		case <-ctx.Done():
			l.t.Fatalf("creating %s: %v\n%s", object, err, out)
		case <-time.After(time.Second):
		}
	}
}

// ownLayer is the size of the layer that tells one image of loads from the others.
const ownLayer = 1 << 18

// withLayer puts a layer of the size in bytes on top that does not compress and that no other seed gets.
func withLayer(t *testing.T, base v1.Image, seed string, size int) v1.Image {
	t.Helper()
	source := rand.NewChaCha8([32]byte([]byte(fmt.Sprintf("%-32s", seed))))
	content := make([]byte, size)
	if _, err := source.Read(content); err != nil {
		t.Fatal(err)
	}
	layer, err := archive.Layer(archive.Program("data", content))
	if err != nil {
		t.Fatal(err)
	}
	image, err := mutate.AppendLayers(base, layer)
	if err != nil {
		t.Fatal(err)
	}
	return image
}

// layerSize is the size of an image's first layer, compressed or unpacked.
func layerSize(t *testing.T, image v1.Image, unpacked bool) int64 {
	t.Helper()
	layers, err := image.Layers()
	if err != nil {
		t.Fatal(err)
	}
	if !unpacked {
		size, err := layers[0].Size()
		if err != nil {
			t.Fatal(err)
		}
		return size
	}
	content, err := layers[0].Uncompressed()
	if err != nil {
		t.Fatal(err)
	}
	defer content.Close()
	size, err := io.Copy(io.Discard, content)
	if err != nil {
		t.Fatal(err)
	}
	return size
}

var sentLine = regexp.MustCompile(`(?m)^(\S+): sent (\d+) bytes, \d+ bytes were there$`)

// load loads into the cluster and returns how many bytes each node was sent, and what was printed.
func load(l launcher, cluster string, sources ...string) (sent map[string]int64, references []string) {
	l.t.Helper()
	status, stdout, stderr := l.run(append([]string{"load", "--name", cluster, "--progress", "plain"}, sources...)...)
	if status != 0 {
		l.t.Fatalf("load %q: exit status %d\n%s", sources, status, stderr)
	}
	sent = map[string]int64{}
	for _, match := range sentLine.FindAllStringSubmatch(stderr, -1) {
		n, err := strconv.ParseInt(match[2], 10, 64)
		if err != nil {
			l.t.Fatal(err)
		}
		sent[match[1]] = n
	}
	return sent, strings.Fields(stdout)
}
