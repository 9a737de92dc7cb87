package cli

import (
	"fmt"
	"math/rand"
	"os"
	"os/exec"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/random"

	"github.com/nodeimg/nodeimg/recipes"
	"github.com/nodeimg/nodeimg/test/internal/engine"
)

// largeImage is an image of 100 MB that no cache knows.
func largeImage(b *testing.B) v1.Image {
	b.Helper()
	image, err := random.Image(50_000_000, 2, random.WithSource(rand.NewSource(time.Now().UnixNano())))
	if err != nil {
		b.Fatal(err)
	}
	config, err := image.ConfigFile()
	if err != nil {
		b.Fatal(err)
	}
	config = config.DeepCopy()
	config.OS, config.Architecture = "linux", "amd64"
	if image, err = mutate.ConfigFile(image, config); err != nil {
		b.Fatal(err)
	}
	return image
}

// pullStep pulls with the node's own containerd, as a Dockerfile would that knows nothing of nodeimg. It unpacks nothing, which would need
// privileges that a build step does not have, so it does less than nodeimg.
const pullStep = `FROM %s
RUN containerd >/tmp/log 2>&1 & \
    until ctr version >/dev/null 2>&1; do sleep 0.05; done; \
    ctr --namespace k8s.io content fetch --plain-http %s >/dev/null && kill %%1 && wait; rm -f /tmp/log
`

// BenchmarkPreload adds an image of 100 MB to a node image in a registry on loopback, on a machine that has neither, and compares that with
// a Docker Engine that has the node image already and builds and pushes an image with the same pull as a RUN step. Packed is the same
// work; unpacked is what nodeimg does unless told otherwise, and twice the bytes.
func BenchmarkPreload(b *testing.B) {
	w := &workplace{t: b, dir: b.TempDir()}
	r, closeServer := newRegistry("", "")
	b.Cleanup(closeServer)
	w.pushNode(r, recipes.EngineDirect, fromModules)
	node := r.host + "/nodes/small:v1"
	running, err := engine.Start(b.Context(), engine.Options{Network: engine.HostNetwork})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		if err := running.Stop(); err != nil {
			b.Error(err)
		}
	})
	docker := func(args ...string) {
		cmd := exec.CommandContext(b.Context(), "docker", args...)
		cmd.Dir = w.dir
		cmd.Env = append(os.Environ(), "DOCKER_HOST="+running.Host(), "DOCKER_BUILDKIT=0")
		if out, err := cmd.CombinedOutput(); err != nil {
			b.Fatalf("docker %q: %v\n%s", args, err, out)
		}
	}
	docker("pull", node)
	ours := map[recipes.Layout]time.Duration{}
	var theirs time.Duration
	for i := 0; b.Loop(); i++ {
		path := fmt.Sprintf("library/large:%d", i)
		r.push(b, path, largeImage(b))
		for _, layout := range []recipes.Layout{recipes.LayoutUnpacked, recipes.LayoutPacked} {
			fresh := w.elsewhere()
			start := time.Now()
			fresh.preload(node, "-i", r.host+"/"+path, "--layout", string(layout), "--push", "-t", fmt.Sprintf("%s/nodes/%s:%d", r.host, layout, i))
			ours[layout] += time.Since(start)
		}

		w.write("Dockerfile", fmt.Sprintf(pullStep, node, r.host+"/"+path))
		tag := fmt.Sprintf("%s/nodes/docker:%d", r.host, i)
		start := time.Now()
		docker("build", "--network", "host", "--no-cache", "-t", tag, ".")
		docker("push", tag)
		theirs += time.Since(start)
	}
	b.ReportMetric(theirs.Seconds()/float64(b.N), "s/docker-build")
	for layout, took := range ours {
		b.ReportMetric(took.Seconds()/float64(b.N), "s/"+string(layout))
		b.ReportMetric(took.Seconds()/theirs.Seconds(), string(layout)+"/docker-build")
	}
}
