package preload

import (
	"bytes"
	"slices"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/opencontainers/go-digest"

	"github.com/nodeimg/nodeimg/recipes"
)

// TestDatabasesForDocker looks at what differs from containerd's own CRI plugin; test/runtimes has what Docker makes of it.
func TestDatabasesForDocker(t *testing.T) {
	s := newSources(t)
	locked := fetched(t, s)
	unpacked := unpackedAs(t, s, locked)
	plugin, err := Databases(t.Context(), s.Cache, recipes.CRIContainerd, locked, unpacked, epoch)
	if err != nil {
		t.Fatal(err)
	}
	docker, err := Databases(t.Context(), s.Cache, recipes.CRIDocker, locked, unpacked, epoch)
	if err != nil {
		t.Fatal(err)
	}
	slices.Reverse(locked)
	again, err := Databases(t.Context(), s.Cache, recipes.CRIDocker, locked, unpacked, epoch)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(docker.Meta, again.Meta) || !bytes.Equal(docker.Snapshots, again.Snapshots) {
		t.Error("two runs give different bytes")
	}
	if !slices.Equal(docker.Chains, plugin.Chains) {
		t.Error("the same trees have other numbers")
	}
	for text, isDockers := range map[string]bool{"moby": true, "io.cri-containerd": false} {
		if bytes.Contains(docker.Meta, []byte(text)) != isDockers || bytes.Contains(plugin.Meta, []byte(text)) == isDockers {
			t.Errorf("the wrong meta.db contains %q", text)
		}
	}
	if _, err := Databases(t.Context(), s.Cache, recipes.CRICRIO, locked, unpacked, epoch); err == nil || !strings.Contains(err.Error(), "crio does not keep") {
		t.Errorf("databases for CRI-O: %v", err)
	}
}

func TestClientNames(t *testing.T) {
	p, s := startRegistry(t), newSources(t)
	image := newOCIImage(t, "amd64", 1, 100)
	index := newIndex(t, map[string]v1.Image{"arm64": newOCIImage(t, "arm64", 1, 100), "amd64": image})
	single, list := digest.FromBytes(rawManifest(t, image)).String(), digest.FromBytes(rawManifest(t, index)).String()
	config, err := image.ConfigName()
	if err != nil {
		t.Fatal(err)
	}
	p.push(t, "single:1", image)
	p.push(t, "list:1", index)
	for _, test := range []struct {
		reference      string
		docker, plugin []string
	}{
		{"/single:1", []string{"/single:1"}, []string{"/single:1", config.String(), "/single@" + single}},
		{"/single@" + single, []string{"/single@" + single}, []string{"/single@" + single, config.String()}},
		{"/single:1@" + single, []string{"/single:1"}, []string{"/single:1", config.String(), "/single@" + single}},
		{"/list:1", []string{"/list:1", "/list@" + single}, []string{"/list:1", config.String(), "/list@" + list, "/list@" + single}},
		{"/list@" + list, []string{"/list@" + list, "/list@" + single}, []string{"/list@" + list, config.String(), "/list@" + single}},
	} {
		locked := mustResolve(t, s, recipes.ImageSource{Registry: p.host + test.reference})[0]
		parts, err := readParts(s.Cache, locked)
		if err != nil {
			t.Fatal(err)
		}
		for cri, want := range map[recipes.CRIName][]string{recipes.CRIDocker: test.docker, recipes.CRIContainerd: test.plugin} {
			got, err := clients[cri].names(locked, parts)
			if err != nil {
				t.Fatal(err)
			}
			for i := range got {
				got[i] = strings.TrimPrefix(got[i], p.host)
			}
			if !slices.Equal(got, want) {
				t.Errorf("%s with %s has the names %q, want %q", test.reference, cri, got, want)
			}
		}
	}
}
