package runtimes

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nodeimg/nodeimg/recipes"
	"github.com/nodeimg/nodeimg/test/conformance/tree"
	"github.com/nodeimg/nodeimg/test/internal/engine"
	"github.com/nodeimg/nodeimg/test/internal/tools"
)

// docker is an Engine that keeps its images in containerd, as in a node.
type docker struct {
	*engine.Engine
	client *http.Client
}

// startDocker starts an Engine on containerd's root. It ends with the test.
func startDocker(t *testing.T, root string) *docker {
	t.Helper()
	running, err := engine.Start(t.Context(), engine.Options{ContainerdRoot: root, Flags: []string{"--feature", "containerd-snapshotter"}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := running.Stop(); err != nil {
			t.Error(err)
		}
	})
	return &docker{running, &http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", strings.TrimPrefix(running.Host(), "unix://"))
		},
	}}}
}

// ask sends a request of the Engine's HTTP API and returns the status and the answer.
func (d *docker) ask(t *testing.T, method, path string, body any) (int, []byte) {
	t.Helper()
	var reader io.Reader
	if body != nil {
		b, err := json.Marshal(body)
		if err != nil {
			t.Fatal(err)
		}
		reader = bytes.NewReader(b)
	}
	request, err := http.NewRequestWithContext(t.Context(), method, "http://docker"+path, reader)
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("Content-Type", "application/json")
	response, err := d.client.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	b, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return response.StatusCode, b
}

// must is ask for a request that succeeds; it decodes the answer into result unless that is nil.
func (d *docker) must(t *testing.T, method, path string, body, result any) {
	t.Helper()
	status, b := d.ask(t, method, path, body)
	if status >= 300 {
		t.Fatalf("%s %s: status %d: %s\n%s", method, path, status, b, d.Log())
	}
	if result == nil {
		return
	}
	if err := json.Unmarshal(b, result); err != nil {
		t.Fatalf("%s %s: %v: %s", method, path, err, b)
	}
}

// images is what "docker images" lists: names and ids, one image per line, sorted.
func (d *docker) images(t *testing.T) []string {
	t.Helper()
	var list []struct {
		Id                    string
		RepoTags, RepoDigests []string
	}
	d.must(t, "GET", "/images/json", nil, &list)
	var lines []string
	for _, image := range list {
		slices.Sort(image.RepoTags)
		slices.Sort(image.RepoDigests)
		lines = append(lines, strings.Join(append(append([]string{image.Id}, image.RepoTags...), image.RepoDigests...), " "))
	}
	slices.Sort(lines)
	return lines
}

// id returns the id of the image that "docker inspect" finds by the name, empty when it finds none.
func (d *docker) id(t *testing.T, name string) string {
	t.Helper()
	status, b := d.ask(t, "GET", "/images/"+name+"/json", nil)
	if status == http.StatusNotFound {
		return ""
	}
	var image struct{ Id string }
	if err := json.Unmarshal(b, &image); status != http.StatusOK || err != nil {
		t.Fatalf("inspecting %s: status %d: %s", name, status, b)
	}
	return image.Id
}

// see runs a container without a network of the image, as "docker run" does, and returns the tree that it sees.
func (d *docker) see(t *testing.T, name string) map[string]tree.Entry {
	t.Helper()
	out := t.TempDir()
	var made struct{ Id string }
	d.must(t, "POST", "/containers/create", map[string]any{
		"Image": name, "HostConfig": map[string]any{"NetworkMode": "none", "Binds": []string{out + ":/out"}},
	}, &made)
	defer d.must(t, "DELETE", "/containers/"+made.Id+"?force=1", nil, nil)
	d.must(t, "POST", "/containers/"+made.Id+"/start", nil, nil)
	var ended struct{ StatusCode int }
	d.must(t, "POST", "/containers/"+made.Id+"/wait", nil, &ended)
	if ended.StatusCode != 0 {
		_, said := d.ask(t, "GET", "/containers/"+made.Id+"/logs?stdout=1&stderr=1", nil)
		t.Fatalf("a container of %s ended with status %d: %s", name, ended.StatusCode, said)
	}
	return readTree(t, filepath.Join(out, "tree"))
}

func readTree(t *testing.T, path string) map[string]tree.Entry {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	entries, err := tree.Read(f)
	if err != nil {
		t.Fatal(err)
	}
	return entries
}

// serve makes the handler answer at the address inside the Engine's network namespace too, so that it can pull.
func (d *docker) serve(t *testing.T, handler http.Handler, address string) {
	t.Helper()
	supervisor, err := os.ReadFile(filepath.Join(filepath.Dir(d.DataRoot()), "pid"))
	if err != nil {
		t.Fatal(err)
	}
	// Whichever thread of the supervisor forked it, its only child is the Engine's first process.
	children, err := filepath.Glob("/proc/" + strings.TrimSpace(string(supervisor)) + "/task/*/children")
	if err != nil {
		t.Fatal(err)
	}
	var pids []string
	for _, path := range children {
		if b, err := os.ReadFile(path); err == nil {
			pids = append(pids, strings.Fields(string(b))...)
		}
	}
	if len(pids) != 1 {
		t.Fatalf("the Engine's supervisor has the children %v", pids)
	}
	namespace, err := os.Open("/proc/" + pids[0] + "/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	defer namespace.Close()
	type result struct {
		listener net.Listener
		err      error
	}
	listening := make(chan result)
	go func() {
		// The thread ends with the goroutine, because it is never unlocked: nothing else gets into the namespace.
		runtime.LockOSThread()
		var r result
		if r.err = unix.Setns(int(namespace.Fd()), unix.CLONE_NEWNET); r.err == nil {
			r.listener, r.err = net.Listen("tcp", address)
		}
		listening <- r
	}()
	r := <-listening
	if r.err != nil {
		t.Fatal(r.err)
	}
	server := &http.Server{Handler: handler}
	go func() { _ = server.Serve(r.listener) }()
	t.Cleanup(func() { _ = server.Close() })
}

// pull is "docker pull".
func (d *docker) pull(t *testing.T, name string) {
	t.Helper()
	status, b := d.ask(t, "POST", "/images/create?fromImage="+url.QueryEscape(name), nil)
	if status != http.StatusOK || bytes.Contains(b, []byte(`"error"`)) {
		t.Fatalf("pulling %s: status %d: %s\n%s", name, status, b, d.Log())
	}
}

// ctr asks the Engine's containerd about what Docker has there.
func (d *docker) ctr(t *testing.T, args ...string) string {
	t.Helper()
	programs, err := tools.Containerd(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	socket := filepath.Join(filepath.Dir(d.DataRoot()), "containerd", "containerd.sock")
	return run(t, filepath.Join(programs, "ctr"), append([]string{"--address", socket, "--namespace", "moby"}, args...)...)
}

// records is what containerd has about content and snapshots, one line each without times, without what says from where something was
// pulled, and without what Docker tells lazy snapshotters, which overlayfs does not read.
func (d *docker) records(t *testing.T, snapshots []string) map[string]string {
	t.Helper()
	found := map[string]string{}
	for line := range strings.Lines(d.ctr(t, "content", "ls")) {
		if fields := strings.Fields(line); fields[0] != "DIGEST" {
			found[fields[0]] = fields[1] + " " + labels(fields[len(fields)-1])
		}
	}
	for _, chain := range snapshots {
		var info struct {
			Kind, Name, Parent string
			Labels             map[string]string
		}
		if err := json.Unmarshal([]byte(d.ctr(t, "snapshots", "info", chain)), &info); err != nil {
			t.Fatal(err)
		}
		text := info.Kind + " " + info.Parent
		for _, key := range []string{"containerd.io/snapshot.ref"} {
			text += " " + key + "=" + info.Labels[key]
		}
		found["snapshot "+chain] = text
	}
	return found
}

func labels(text string) string {
	list := slices.DeleteFunc(strings.Split(text, ","), func(label string) bool {
		return !strings.HasPrefix(label, "containerd.io/") || strings.Contains(label, "distribution.source")
	})
	slices.Sort(list)
	return strings.Join(list, ",")
}

func TestDocker(t *testing.T) {
	handler, host := startRegistry(t)
	base := baseLayer(t)
	changed := imageOf(t, "amd64", "changed", base, layerOf(t, whiteout("d", "old"), dir("d"), whiteout("d", "sub"), file("new", "1")), layerOf(t, file("top", "2")))
	plain := imageOf(t, "amd64", "plain", base, layerOf(t, dir("d"), file("d/kept", "other")))
	packed := imageOf(t, "amd64", "packed", base, layerOf(t, whiteout("d", "kept"), file("packed", "3")))
	index := indexOf(t, changed)
	manifest, err := changed.Digest()
	if err != nil {
		t.Fatal(err)
	}
	indexDigest := push(t, host+"/changed:1", index)
	plainDigest := push(t, host+"/team/plain:1", plain)
	packedDigest := push(t, host+"/packed:1", packed)
	byDigest := push(t, host+"/digest:1", imageOf(t, "amd64", "digest", base))

	c, node, root := newCache(t), t.TempDir(), t.TempDir()
	unpacked := lock(t, c, host+"/changed:1", host+"/team/plain:1@"+plainDigest, host+"/digest@"+byDigest)
	stays := lock(t, c, host+"/packed:1")
	snapshots := plant(t, c, node, recipes.LayoutUnpacked, unpacked)
	plant(t, c, node, recipes.LayoutPacked, stays)
	all := slices.Concat(unpacked, stays)
	describe(t, c, node, recipes.CRIDocker, all, snapshots)
	boot(t, node, root)
	d := startDocker(t, root)

	want := []string{
		indexDigest + " " + host + "/changed:1 " + host + "/changed@" + indexDigest,
		manifest.String() + " " + host + "/changed@" + manifest.String() + " " + host + "/changed@" + manifest.String(),
		plainDigest + " " + host + "/team/plain:1 " + host + "/team/plain@" + plainDigest,
		byDigest + " " + host + "/digest@" + byDigest + " " + host + "/digest@" + byDigest,
		packedDigest + " " + host + "/packed:1 " + host + "/packed@" + packedDigest,
	}
	slices.Sort(want)
	if got := d.images(t); !slices.Equal(got, want) {
		t.Errorf("docker images lists\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	for name, want := range map[string]string{
		host + "/changed:1": indexDigest, host + "/changed@" + indexDigest: indexDigest, host + "/changed:1@" + indexDigest: indexDigest,
		host + "/changed:other@" + indexDigest: indexDigest, host + "/changed@" + manifest.String(): manifest.String(),
		host + "/changed:1@" + manifest.String(): manifest.String(), indexDigest: indexDigest, manifest.String(): manifest.String(),
		host + "/team/plain:1": plainDigest, host + "/team/plain@" + plainDigest: plainDigest, host + "/team/plain:1@" + plainDigest: plainDigest,
		host + "/digest@" + byDigest: byDigest, host + "/digest:any@" + byDigest: byDigest, host + "/digest:1": "", host + "/digest": "",
		host + "/packed:1": packedDigest, host + "/packed@" + packedDigest: packedDigest, host + "/packed@" + plainDigest: "", host + "/changed:2": "",
	} {
		if got := d.id(t, name); got != want {
			t.Errorf("docker inspect %s finds %q, want %q", name, got, want)
		}
	}

	// What a pull leaves is the measure.
	start := time.Now()
	pulled := startDocker(t, t.TempDir())
	pulled.serve(t, handler, host)
	for _, name := range []string{host + "/changed:1", host + "/changed@" + manifest.String(), host + "/team/plain:1", host + "/digest@" + byDigest, host + "/packed:1"} {
		pulled.pull(t, name)
	}
	if got := pulled.images(t); !slices.Equal(got, want) {
		t.Errorf("after a pull docker images lists\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	var chains []string
	for _, s := range snapshots {
		if s.Parent != "" {
			chains = append(chains, s.ChainID.String())
		}
	}
	if len(chains) == 0 {
		t.Error("no snapshot has a parent")
	}
	compareRecords(t, d.records(t, chains), pulled.records(t, chains), packedDigest)
	for _, image := range all {
		want := pulled.see(t, image.Reference)
		if len(want) < 15 || want["/d/kept"].Type == "" && !strings.Contains(image.Reference, "packed") {
			t.Errorf("a container of %s sees only %d paths after a pull", image.Reference, len(want))
		}
		for _, line := range tree.Diff(want, d.see(t, image.Reference), tree.Options{UnpackedFrom: start, UnpackedUntil: time.Now()}) {
			t.Errorf("a container of %s: %s", image.Reference, line)
		}
	}
	removeAndRestart(t, d, node, root, host, indexDigest, manifest.String())
}

// compareRecords compares what is there with what is there after a pull, but for the blobs of the image that stays packed.
func compareRecords(t *testing.T, got, want map[string]string, packed string) {
	t.Helper()
	same := 0
	for name, text := range got {
		if !strings.Contains(text, "containerd.io/uncompressed") && name != packed && !strings.HasPrefix(name, "snapshot") && !strings.Contains(text, "gc.ref") {
			continue
		}
		if text != want[name] {
			t.Errorf("%s is %q, after a pull %q", name, text, want[name])
		}
		same++
	}
	if same < 6 {
		t.Errorf("only %d records were compared", same)
	}
}

// removeAndRestart removes images as a user does, and starts the Engine anew as a node does that is restarted.
func removeAndRestart(t *testing.T, d *docker, node, root, host, index, manifest string) {
	t.Helper()
	d.must(t, "DELETE", "/images/"+host+"/changed:1", nil, nil)
	if got := d.id(t, host+"/changed@"+manifest); got != manifest {
		t.Errorf("without its tag the image's manifest finds %q", got)
	}
	d.must(t, "DELETE", "/images/"+host+"/changed@"+manifest, nil, nil)
	d.must(t, "DELETE", "/images/"+host+"/packed:1", nil, nil)
	before := d.images(t)
	if len(before) != 2 {
		t.Errorf("docker images lists %v", before)
	}
	if err := d.Stop(); err != nil {
		t.Error(err)
	}
	boot(t, node, root)
	if _, err := os.Stat(filepath.Join(root, "run", "register-store")); err == nil {
		t.Error("the second boot asks for registering")
	}
	again := startDocker(t, root)
	if got := again.images(t); !slices.Equal(got, before) {
		t.Errorf("after a restart docker images lists %v, want %v", got, before)
	}
	if got := again.id(t, host+"/changed@"+index); got != "" {
		t.Errorf("the removed image came back as %s", got)
	}
	if got := again.see(t, host+"/team/plain:1"); got["/d/kept"].Type != "file" {
		t.Error("after a restart a container sees no /d/kept")
	}
}
