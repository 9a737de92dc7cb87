package stock

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

// kindImage is kind's own sort of image with the same programs, see buildKindImage.
const kindImage = "nodeimg-stock/kind-node:test"

// BenchmarkAgainstKind compares clusters of nodeimg up with those of stock kind and its own sort of image, one after the other on one Engine:
//
//	go test -run '^$' -bench AgainstKind -benchtime 1x ./test/stock
//
// Ready is when Kubernetes noted that the node is, counted from the start of the command; Kubernetes' times have a resolution of one second.
// The commands end later: kind's when it sees the node Ready (--wait), nodeimg's when the pods of kube-system are as well. Disk is what the
// node's own layer, its volumes and its container's files occupy as soon as the command has ended. It fails when something does not work,
// never for being slow.
func BenchmarkAgainstKind(b *testing.B) {
	buildKindImage(b)
	for b.Loop() {
		kind := benchmarkKind(b)
		nodeimg := benchmarkNodeimg(b)
		b.ReportMetric(kind.ready.Seconds(), "kind-ready-s")
		b.ReportMetric(nodeimg.ready.Seconds(), "nodeimg-ready-s")
		b.ReportMetric(nodeimg.ready.Seconds()/kind.ready.Seconds(), "ready-ratio")
		b.ReportMetric(kind.command.Seconds(), "kind-create-s")
		b.ReportMetric(nodeimg.command.Seconds(), "nodeimg-up-s")
		b.ReportMetric(megabytes(kind.worker), "kind-MB/worker")
		b.ReportMetric(megabytes(nodeimg.worker), "nodeimg-MB/worker")
		b.ReportMetric(float64(kind.worker)/float64(nodeimg.worker), "disk-ratio")
		b.ReportMetric(nodeimg.resize.Seconds(), "resize-s")
	}
}

// BenchmarkTenNodes makes a cluster of ten nodes, as BenchmarkAgainstKind those of one, and removes it.
func BenchmarkTenNodes(b *testing.B) {
	raiseInotify(b)
	for b.Loop() {
		h := newHost(b)
		const cluster = "ten"
		begin := time.Now()
		h.up(cluster, "--workers", "9")
		b.ReportMetric(time.Since(begin).Seconds(), "up-s")
		b.ReportMetric(h.lastReady(10).Sub(begin).Seconds(), "ready-s")
		var disk int64
		for _, node := range strings.Fields(h.docker("ps", "--format", "{{.Names}}")) {
			used := h.disk(node)
			b.Logf("%s: %.1f MB", node, megabytes(used))
			disk += used
		}
		b.ReportMetric(megabytes(disk), "MB")
		b.ReportMetric(h.down(cluster).Seconds(), "down-s")
	}
}

// raiseInotify lets privileged nodes have the inotify instances that ten of them need, which are all root's: what nodeimg doctor asks for.
func raiseInotify(b *testing.B) {
	const file, needed = "/proc/sys/fs/inotify/max_user_instances", 512
	text, err := os.ReadFile(file)
	if err != nil {
		b.Fatal(err)
	}
	if has, err := strconv.Atoi(strings.TrimSpace(string(text))); err != nil || has >= needed {
		return
	}
	if err := os.WriteFile(file, fmt.Append(nil, needed), 0o644); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		if err := os.WriteFile(file, text, 0o644); err != nil {
			b.Error(err)
		}
	})
}

// measured is what one tool's clusters took.
type measured struct {
	// ready is the first control plane's time, command the whole command's, for a cluster of one node.
	ready, command time.Duration
	// resize is how long one more worker took; kind cannot do that.
	resize time.Duration
	// worker is the disk of a worker, in bytes.
	worker int64
}

func benchmarkKind(b *testing.B) (m measured) {
	const cluster = "against"
	h := newKindHost(b, cluster)
	begin := time.Now()
	h.must("kind", "create", "cluster", "--name", cluster, "--image", kindImage, "--wait", wait.String())
	m.command = time.Since(begin)
	m.ready = h.lastReady(1).Sub(begin)
	h.must("kind", "delete", "cluster", "--name", cluster)

	config := filepath.Join(b.TempDir(), "kind.yaml")
	if err := os.WriteFile(config, []byte("kind: Cluster\napiVersion: kind.x-k8s.io/v1alpha4\nnodes: [{role: control-plane}, {role: worker}]\n"), 0o644); err != nil {
		b.Fatal(err)
	}
	h.must("kind", "create", "cluster", "--name", cluster, "--image", kindImage, "--config", config, "--wait", wait.String())
	h.lastReady(2)
	m.worker = h.disk(cluster + "-worker")
	h.must("kind", "delete", "cluster", "--name", cluster)
	return m
}

func benchmarkNodeimg(b *testing.B) (m measured) {
	const cluster = "against"
	h := newHost(b)
	begin := time.Now()
	h.up(cluster)
	m.command = time.Since(begin)
	m.ready = h.lastReady(1).Sub(begin)
	begin = time.Now()
	h.must("nodeimg", "resize", "--name", cluster, "--workers", "1", "--progress", "plain")
	m.resize = time.Since(begin)
	h.lastReady(2)
	m.worker = h.disk(cluster + "-worker-1")
	h.down(cluster)
	return m
}

// up makes a cluster that is removed in any case, and shows what took how long.
func (h host) up(cluster string, flags ...string) {
	h.Helper()
	h.Cleanup(func() {
		late := host{TB: unending{h.TB}, kubeconfig: h.kubeconfig}
		// Nothing is left to do when down has ended well.
		if strings.Contains(late.has(), "nodeimg-"+cluster) {
			late.must("nodeimg", "down", "--name", cluster)
		}
	})
	cmd := h.command("nodeimg", append([]string{"up", nodeImage, "--name", cluster, "--privileged", "--progress", "plain", "--timings"}, flags...)...)
	var said strings.Builder
	cmd.Stderr = &said
	if err := shared.inside.do(cmd.Start); err != nil {
		h.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		h.Fatalf("%s: %v\n%s", cmd, err, said.String())
	}
	h.Log(said.String())
}

// down removes the cluster and returns how long that took.
func (h host) down(cluster string) time.Duration {
	h.Helper()
	begin := time.Now()
	h.must("nodeimg", "down", "--name", cluster)
	return time.Since(begin)
}

// lastReady waits until so many nodes are Ready and returns when Kubernetes noted that of the last one.
func (h host) lastReady(nodes int) time.Time {
	h.Helper()
	var last time.Time
	h.until(func(out string) bool {
		lines := strings.Fields(out)
		slices.Sort(lines)
		if len(lines) != nodes {
			return false
		}
		for _, line := range lines {
			at, err := time.Parse(time.RFC3339, strings.TrimPrefix(line, "True="))
			if err != nil {
				return false
			}
			last = at
		}
		return true
	}, "kubectl", "get", "nodes", "-o", `jsonpath={range .items[*].status.conditions[?(@.type=="Ready")]}{.status}={.lastTransitionTime}{"\n"}{end}`)
	return last
}

// disk is what the container occupies on the Engine's disk by itself, in bytes.
func (h host) disk(container string) int64 {
	h.Helper()
	folders := strings.Fields(h.docker("inspect", "--format", `{{.GraphDriver.Data.UpperDir}}{{range .Mounts}}{{if eq .Type "volume"}} {{.Source}}{{end}}{{end}}`, container))
	folders = append(folders, filepath.Join(shared.engine.DataRoot(), "containers", strings.TrimSpace(h.docker("inspect", "--format", "{{.Id}}", container))))
	out, err := exec.CommandContext(h.Context(), "du", append([]string{"--summarize", "--total", "--block-size=1"}, folders...)...).Output()
	if err != nil {
		h.Fatalf("measuring the disk of %s: %v", container, err)
	}
	lines := strings.Split(strings.TrimSpace(string(out)), "\n")
	total, err := strconv.ParseInt(strings.Fields(lines[len(lines)-1])[0], 10, 64)
	if err != nil {
		h.Fatalf("measuring the disk of %s: %v", container, err)
	}
	return total
}

func megabytes(bytes int64) float64 { return float64(bytes) / 1e6 }

// buildKindImage makes of the node image what "kind build node-image" makes of a base image (kind v0.33, pkg/build/nodeimage): the same
// images are imported into containerd of a running container, with kind's own command but --all-platforms, which fails for images of one
// platform, and the container is committed. nodeimg's store is not in its files any more. kind's own command cannot run without a registry.
func buildKindImage(b *testing.B) {
	h := newHost(b)
	const container = "nodeimg-stock-kind-image"
	h.removeLater(container)
	h.docker("run", "-d", "--name", container, "--privileged", "--entrypoint", "sleep", nodeImage, "infinity")
	h.docker("exec", container, "bash", "-ec", `
		mkdir -p /run
		containerd >/tmp/containerd.log 2>&1 &
		for i in $(seq 100); do [ ! -S /run/containerd/containerd.sock ] || break; sleep 0.1; done
		cd /usr/lib/nodeimg
		tar -C store -cf - . | ctr --namespace=k8s.io images import --label=io.cri-containerd.pinned=pinned --no-unpack --digests -
		kill %1
		wait %1 || true
		rm -rf store snapshots databases /tmp/containerd.log /run/containerd`)
	entrypoint := h.docker("image", "inspect", "--format", "{{json .Config.Entrypoint}}", nodeImage)
	command := h.docker("image", "inspect", "--format", "{{json .Config.Cmd}}", nodeImage)
	h.docker("commit", "--change", "ENTRYPOINT "+strings.TrimSpace(entrypoint), "--change", fmt.Sprintf("CMD %s", strings.TrimSpace(command)), container, kindImage)
}
