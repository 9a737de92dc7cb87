package clusters

import (
	"archive/tar"
	"bufio"
	"context"
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"

	"github.com/nodeimg/nodeimg/test/internal/application"
	"github.com/nodeimg/nodeimg/test/internal/archive"
	"github.com/nodeimg/nodeimg/test/internal/command"
	"github.com/nodeimg/nodeimg/test/internal/registry"
	"github.com/nodeimg/nodeimg/test/internal/tools"
)

// mirroredCluster is a cluster on a network whose nodes find a registry by its mirror alone.
const mirroredCluster = `apiVersion: nodeimg.dev/v1alpha1
kind: Cluster
spec:
  networking: {network: %s}
  registryMirrors: {mirrored.test: [%q]}
  caCertificates: [authority.pem]
`

// TestRuntimes makes clusters of nodes with the Docker Engine and with CRI-O, pulls through a mirror and loads images into them; TestConfig
// and TestUp do so with containerd.
func TestRuntimes(t *testing.T) {
	for _, runtime := range []struct {
		name string
		// unpacked says that the runtime gets files instead of layers.
		unpacked bool
	}{{"docker", false}, {"crio", true}} {
		t.Run(runtime.name, func(t *testing.T) {
			l, image, cluster := clusters(t), "nodeimg-clusters/k8s-node:"+runtime.name, "on-"+runtime.name
			worker := cluster + "-worker-1"
			reached := command.Stopwatch(t)
			nodeimg(t.Context(), t, []string{"DOCKER_HOST=" + l.host}, "build", filepath.Join(command.Root(t), "recipes", "k8s-node-"+runtime.name+".yaml"), "-o", "type=docker", "-t", image)
			defer l.docker("rmi", image)
			reached("image built")
			mirror, authority := startMirror(t, l.network(cluster))
			file := filepath.Join(t.TempDir(), "cluster.yaml")
			write(t, file, fmt.Sprintf(mirroredCluster, cluster, mirror))
			write(t, filepath.Join(filepath.Dir(file), "authority.pem"), string(authority))
			l.must("up", image, "--config", file, "--name", cluster, "--workers", "1", "--privileged", "--progress", "plain")
			defer l.must("down", "--name", cluster)
			reached("two nodes Ready")
			loads(l, cluster, runtime.unpacked)
			loadsFromRegistry(l, cluster)
			reached("loaded from a registry")
			loadsFiles(l, cluster)
			reached("files as they were")
			if runtime.unpacked {
				loadsAgain(l, cluster)
				reached("killed and replaced")
				loadsOverPulled(l, cluster)
				reached("loaded over what was pulled")
			}
			l.docker("restart", worker)
			l.podReady(cluster, "restarted", worker, "example/second:v1")
			reached("worker restarted")
			l.docker("exec", worker, "crictl", "pull", "mirrored.test/team/app:v1")
			reached("pulled through the mirror")
		})
	}
}

// podReady runs a pod of the image on the node until it is Ready.
func (l launcher) podReady(cluster, pod, node, image string) {
	l.t.Helper()
	l.create(cluster, fmt.Sprintf(neverPulled, pod, node, image))
	l.kubectl(cluster, "wait", "--for=condition=Ready", "pod/"+pod, "--timeout="+wait.String())
}

// eventually waits for a condition.
func (l launcher) eventually(what string, condition func() bool) {
	l.t.Helper()
	ctx, cancel := context.WithTimeout(l.t.Context(), wait)
	defer cancel()
	for !condition() {
		select {
		case <-ctx.Done():
			l.t.Fatalf("it did not come so far that %s", what)
		case <-time.After(200 * time.Millisecond):
		}
	}
}

// loadsFromRegistry loads an image of a registry, which an index leads to.
func loadsFromRegistry(l launcher, cluster string) {
	t := l.t
	reference, err := name.ParseReference(registry.Start(t) + "/example/pushed:v1")
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.Write(reference, withLayer(t, application.For(t), "pushed", ownLayer), remote.WithContext(t.Context())); err != nil {
		t.Fatal(err)
	}
	reached := command.Stopwatch(t)
	load(l, cluster, reference.Name())
	reached("loaded " + reference.Name())
	l.podReady(cluster, "pushed", cluster+"-worker-1", reference.Name())
}

// loadsFiles holds that a container sees the files of its image as they are in the layers: what an upper layer deletes is gone, and file
// capabilities, owners, modes and times are kept.
func loadsFiles(l launcher, cluster string) {
	t := l.t
	const capability = "\x01\x00\x00\x02\x00\x04\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"
	file := func(path string, h tar.Header) archive.File {
		h.Name, h.Format = path, tar.FormatPAX
		return archive.File{Header: h, Content: []byte(path)}
	}
	lower, err := archive.Layer(
		file("kept/able", tar.Header{Typeflag: tar.TypeReg, Mode: 0o4751, Uid: 7, Gid: 8, PAXRecords: map[string]string{"SCHILY.xattr.security.capability": capability}}),
		file("kept/deleted", tar.Header{Typeflag: tar.TypeReg, Mode: 0o644}),
		file("opaque/deleted", tar.Header{Typeflag: tar.TypeReg, Mode: 0o644}))
	if err != nil {
		t.Fatal(err)
	}
	upper, err := archive.Layer(
		file("kept/.wh.deleted", tar.Header{Typeflag: tar.TypeReg}),
		file("opaque/.wh..wh..opq", tar.Header{Typeflag: tar.TypeReg}),
		file("opaque/added", tar.Header{Typeflag: tar.TypeReg, Mode: 0o600}))
	if err != nil {
		t.Fatal(err)
	}
	image, err := mutate.AppendLayers(application.For(t), lower, upper)
	if err != nil {
		t.Fatal(err)
	}
	load(l, cluster, "archive:"+savedImage(t, "example/files:v1", image))
	worker := cluster + "-worker-1"
	l.podReady(cluster, "files", worker, "example/files:v1")
	// Only this container has such files.
	seen := l.docker("exec", worker, "sh", "-c", `for file in /proc/[0-9]*/root/kept/able; do root=${file%/kept/able}; done; cd "$root"
		find kept opaque -printf '%p %y %m %U:%G\n' | sort; tar --create --xattrs --xattrs-include='*' kept/able | tar --list -vv --xattrs --xattrs-include='*'`)
	for _, want := range []string{"kept d", "kept/able f 4751 7:8\n", "opaque d", "opaque/added f 600 0:0\n", "20 security.capability"} {
		if !strings.Contains(seen, want) {
			t.Errorf("the container does not see %q:\n%s", want, seen)
		}
	}
	if strings.Contains(seen, "deleted") {
		t.Errorf("the container sees what was deleted:\n%s", seen)
	}
}

// loadsAgain kills a load in the middle of sending, lets two loads meet, and gives a name to another image while a container is made of the
// one before: the store of loaded images holds what is needed, and nothing else.
func loadsAgain(l launcher, cluster string) {
	t := l.t
	worker := cluster + "-worker-1"
	const state = "/var/lib/nodeimg/images"
	count := func() (trees, stores int) {
		t.Helper()
		out := l.docker("exec", worker, "sh", "-c", "ls "+state+"/trees | wc -l; ls "+state+"/stores | wc -l")
		if _, err := fmt.Sscan(out, &trees, &stores); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		return trees, stores
	}
	before, _ := count()
	// saved writes an archive with a layer that no other seed gets.
	saved := func(tag, seed string, size int) string {
		t.Helper()
		return "archive:" + savedImage(t, tag, withLayer(t, application.For(t), seed, size))
	}

	// These are more than fits between nodeimg and a node that does not take them.
	large := []string{saved("example/large:v1", "large-1", 128<<20), saved("example/large:v2", "large-2", 32<<20)}
	release := l.locked(worker, state+"/lock")
	taking := func() bool {
		return l.docker("exec", worker, "sh", "-c", "grep --null-data --files-with-matches '^take$' /proc/[0-9]*/cmdline 2>/dev/null || true") != ""
	}
	killedWhenever(l, taking, "load", "--name", cluster, large[0])
	release()
	l.eventually("the node has done with what did not arrive whole", func() bool { return !taking() })
	if out := l.docker("exec", worker, "ls", state); strings.Contains(out, "incoming") {
		t.Errorf("a load that was killed left files:\n%s", out)
	}
	if out := l.docker("exec", worker, "crictl", "images"); strings.Contains(out, "example/large") {
		t.Errorf("a load that was killed left an image:\n%s", out)
	}
	other := l.command("load", "--name", cluster, large[1])
	if err := other.Start(); err != nil {
		t.Fatal(err)
	}
	load(l, cluster, large[0])
	if err := other.Wait(); err != nil {
		t.Errorf("of two loads at once one failed: %v", err)
	}
	l.docker("exec", worker, "crictl", "inspecti", "-q", "example/large:v1")
	l.docker("exec", worker, "crictl", "inspecti", "-q", "example/large:v2")
	// The application's own layer is there; large is one layer more each time.
	if trees, stores := count(); trees != before+2 || stores != 1 {
		t.Errorf("there are %d trees and %d stores, were %d trees", trees, stores, before)
	}

	const moving = "example/moving:dev"
	load(l, cluster, saved(moving, "one", ownLayer))
	l.podReady(cluster, "moving", worker, moving)
	load(l, cluster, saved(moving, "two", ownLayer))
	load(l, cluster, saved(moving, "three", ownLayer))
	if trees, _ := count(); trees != before+5 {
		t.Errorf("there are %d trees, want %d: of three images with one name one has a container, one has the name and one had it before", trees, before+5)
	}
	l.kubectl(cluster, "delete", "pod", "moving")
	gone := func() bool { return !strings.Contains(l.docker("exec", worker, "crictl", "ps", "--all"), "moving") }
	l.eventually("the container of the deleted pod is gone", gone)
	load(l, cluster, saved(moving, "three", ownLayer), saved("example/other:dev", "other", ownLayer))
	if trees, _ := count(); trees != before+4 {
		t.Errorf("there are %d trees, want %d: images without name and container have to be gone", trees, before+4)
	}
	pinned := func() bool {
		return strings.Contains(l.docker("exec", worker, "crictl", "inspecti", "-o", "go-template", "--template", "{{.status.pinned}}", "example/other:dev"), "true")
	}
	l.eventually("the loaded image is pinned", pinned)
}

// locked keeps a file in the node locked until release is called. Others can share the lock.
func (l launcher) locked(node, file string) (release func()) {
	l.t.Helper()
	cmd := exec.CommandContext(l.t.Context(), "docker", "--host", l.host, "exec", "--interactive", node, "flock", "--shared", file, "sh", "-c", "echo locked; exec cat")
	stdin, err := cmd.StdinPipe()
	if err != nil {
		l.t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		l.t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		l.t.Fatal(err)
	}
	if line, err := bufio.NewReader(stdout).ReadString('\n'); err != nil {
		l.t.Fatalf("locking %s in %s: %v: %s", file, node, err, line)
	}
	return func() {
		l.t.Helper()
		if err := errors.Join(stdin.Close(), cmd.Wait()); err != nil {
			l.t.Errorf("unlocking %s in %s: %v", file, node, err)
		}
	}
}

// loadsOverPulled gives a loaded image the name of one that CRI-O has pulled, which it would find first.
func loadsOverPulled(l launcher, cluster string) {
	t := l.t
	const tag = "docker.io/example/pulled:dev"
	worker := cluster + "-worker-1"
	images, err := layout.Write(t.TempDir(), empty.Index)
	if err != nil {
		t.Fatal(err)
	}
	if err := images.AppendImage(withLayer(t, application.For(t), "pulled", ownLayer), layout.WithAnnotations(map[string]string{"org.opencontainers.image.ref.name": "example/pulled:dev"})); err != nil {
		t.Fatal(err)
	}
	program, err := tools.Command(t.Context(), "test/cmd/registry")
	if err != nil {
		t.Fatal(err)
	}
	l.docker("cp", string(images)+"/.", worker+":/images")
	l.docker("cp", program, worker+":/usr/local/bin/registry")
	l.docker("exec", "--detach", worker, "/usr/local/bin/registry")
	l.docker("exec", worker, "sh", "-c", `mkdir -p /etc/containers/registries.conf.d
		printf '[[registry]]\nprefix = "docker.io/example"\nlocation = "127.0.0.1:5000/example"\ninsecure = true\n' >/etc/containers/registries.conf.d/test.conf
		systemctl reload crio`)
	id := func() string {
		t.Helper()
		return strings.TrimSpace(l.docker("exec", worker, "sh", "-c", "crictl inspecti -o go-template --template '{{.status.id}}' "+tag+" || true"))
	}
	l.eventually("the node has pulled the image", func() bool {
		return strings.Contains(l.docker("exec", worker, "sh", "-c", "crictl pull "+tag+" 2>&1 || true"), "up to date")
	})
	pulled := id()
	l.podReady(cluster, "pulled", worker, tag)
	archive := "archive:" + savedImage(t, tag, withLayer(t, application.For(t), "not pulled", ownLayer))
	l.refused(1, "delete the pods that use it", "load", "--name", cluster, archive)
	l.kubectl(cluster, "delete", "pod", "pulled")
	l.eventually("the container of the deleted pod is gone", func() bool { return !strings.Contains(l.docker("exec", worker, "crictl", "ps", "--all"), "pulled") })
	load(l, cluster, archive)
	if now := id(); now == pulled || len(now) != len(pulled) {
		t.Errorf("the name means %s, before the load it meant %s", now, pulled)
	}
}
