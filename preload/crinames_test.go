package preload

import (
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/opencontainers/go-digest"

	"github.com/nodeimg/nodeimg/recipes"
)

// status asks the CRI plugin, as the kubelet does before it starts a container, which image each name finds.
func (n *node) status(t *testing.T, names ...string) []string {
	t.Helper()
	// The plugin answers a little later than the rest of containerd.
	n.cri(t)
	out, err := exec.CommandContext(t.Context(), filepath.Join(mustPrograms(t), "criimages"), append([]string{n.socket}, names...)...).Output()
	if err != nil {
		t.Fatalf("asking the CRI plugin: %v\n%s", err, n.text(t))
	}
	return strings.Fields(string(out))
}

// TestKubeletFindsImagesByEveryName asks the real CRI plugin for preloaded images by all names that a pod's manifest may have for them.
func TestKubeletFindsImagesByEveryName(t *testing.T) {
	p, s := startRegistry(t), newSources(t)
	s.Mirrors = map[string]string{"docker.io": "http://" + p.host + "/hub", "registry.k8s.io": "http://" + p.host, "example.com": "http://" + p.host}
	nginx, pause, app, saved := newOCIImage(t, "amd64", 2, 500), newImage(t, "amd64", 1, 500), newOCIImage(t, "amd64", 1, 500), newImage(t, "amd64", 1, 500)
	index := newIndex(t, map[string]v1.Image{"arm64": newOCIImage(t, "arm64", 1, 500), "amd64": nginx})
	digestOf := func(what interface{ RawManifest() ([]byte, error) }) string {
		return digest.FromBytes(rawManifest(t, what)).String()
	}
	p.push(t, "hub/library/nginx:1.29", index)
	p.push(t, "hub/library/nginx:latest", index)
	p.push(t, "pause:3.10", pause)
	p.push(t, "team/app:ignored", app)
	writeArchive(t, filepath.Join(s.Dir, "saved.tar"), "registry.example.com:5000/team/saved:v1", saved)
	var locked []recipes.LockedImage
	for _, source := range []recipes.ImageSource{
		{Registry: "nginx:1.29"}, {Registry: "nginx:latest"}, {Registry: "registry.k8s.io/pause:3.10@" + digestOf(pause)}, {Registry: "example.com/team/app@" + digestOf(app)},
		{Archive: "saved.tar"},
	} {
		locked = append(locked, mustResolve(t, s, source)...)
	}
	mustFetch(t, s, locked)
	dir, root := nodeStore(t, s, locked), t.TempDir()
	boot(t, dir, root)
	n := startNode(t, root)

	other := digest.FromString("other").String()
	for _, test := range []struct {
		image v1.Image
		names []string
	}{
		{nginx, []string{
			"nginx", "nginx:latest", "nginx:1.29", "library/nginx:1.29", "docker.io/nginx:1.29", "docker.io/library/nginx:1.29", "docker.io/library/nginx",
			"index.docker.io/nginx:1.29", "index.docker.io/library/nginx:1.29",
			"nginx@" + digestOf(index), "nginx:1.29@" + digestOf(index), "docker.io/library/nginx:1.29@" + digestOf(index),
			// A digest decides, whatever the tag before it says.
			"nginx:1.0@" + digestOf(index),
			// The platform's own manifest, as tools pin it that know only one platform.
			"nginx@" + digestOf(nginx), "nginx:1.29@" + digestOf(nginx),
		}},
		{pause, []string{"registry.k8s.io/pause:3.10", "registry.k8s.io/pause@" + digestOf(pause), "registry.k8s.io/pause:3.10@" + digestOf(pause)}},
		{app, []string{"example.com/team/app@" + digestOf(app), "example.com/team/app:any@" + digestOf(app)}},
		{saved, []string{"registry.example.com:5000/team/saved:v1"}},
	} {
		config, err := test.image.ConfigName()
		if err != nil {
			t.Fatal(err)
		}
		names := append(test.names, config.String(), config.Hex, config.Hex[:12])
		for i, id := range n.status(t, names...) {
			if id != config.String() {
				t.Errorf("%s finds %s, want %s", names[i], id, config)
			}
		}
	}
	absent := []string{"nginx:1.30", "example.com/team/app", "example.com/team/app:ignored", "nginx@" + other, "registry.k8s.io/nginx:1.29", "registry.example.com/team/saved:v1"}
	for i, id := range n.status(t, absent...) {
		if id != "none" {
			t.Errorf("%s finds %s, want nothing", absent[i], id)
		}
	}
}
