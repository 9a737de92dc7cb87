package nodeimage

import (
	"errors"
	"math/rand"
	"slices"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/identity"

	"github.com/nodeimg/nodeimg/internal/cache"
	"github.com/nodeimg/nodeimg/internal/cachedimage"
	"github.com/nodeimg/nodeimg/preload"
	"github.com/nodeimg/nodeimg/preload/layers"
	"github.com/nodeimg/nodeimg/preload/trees"
	"github.com/nodeimg/nodeimg/recipes"
)

// made is an image in the cache, with the blob and the chain id of each layer.
type made struct {
	recipes.LockedImage
	blobs, chains []digest.Digest
}

// makeImage puts an image with one layer for each seed into the cache: equal seeds give equal layers.
func makeImage(t *testing.T, c *cache.Cache, reference string, seeds ...int64) made {
	t.Helper()
	img := mutate.ConfigMediaType(mutate.MediaType(empty.Image, types.OCIManifestSchema1), types.OCIConfigJSON)
	m := made{}
	var diffIDs []digest.Digest
	for _, seed := range seeds {
		layer, err := random.Layer(100, types.OCILayer, random.WithSource(rand.NewSource(seed)))
		if err != nil {
			t.Fatal(err)
		}
		if img, err = mutate.AppendLayers(img, layer); err != nil {
			t.Fatal(err)
		}
		hash, err := layer.Digest()
		if err != nil {
			t.Fatal(err)
		}
		diffID, err := layer.DiffID()
		if err != nil {
			t.Fatal(err)
		}
		m.blobs, diffIDs = append(m.blobs, digest.Digest(hash.String())), append(diffIDs, digest.Digest(diffID.String()))
	}
	d, err := cachedimage.Put(c, img)
	if err != nil {
		t.Fatal(err)
	}
	size, err := c.Size(d)
	if err != nil {
		t.Fatal(err)
	}
	m.chains = identity.ChainIDs(diffIDs)
	m.LockedImage = recipes.LockedImage{
		Reference: reference, MediaType: string(types.OCIManifestSchema1), Digest: d.String(), Size: size, Manifest: d.String(), Platform: "linux/amd64", Role: recipes.RoleUser,
	}
	return m
}

// holding is a layer with the image's layers of the given numbers, unpacked.
func (m made) holding(name string, numbers ...int) preload.ContentsLayer {
	layer := preload.ContentsLayer{DiffID: digest.FromString(name)}
	for _, i := range numbers {
		layer.Blobs = append(layer.Blobs, m.blobs[i])
		snapshot := trees.Snapshot{ChainID: m.chains[i]}
		if i > 0 {
			snapshot.Parent = m.chains[i-1]
		}
		layer.Snapshots = append(layer.Snapshots, snapshot)
	}
	return layer
}

func newCache(t testing.TB) *cache.Cache {
	t.Helper()
	c, err := cache.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestArrange(t *testing.T) {
	c := newCache(t)
	base, other := int64(1), int64(2)
	a := makeImage(t, c, "docker.io/library/a:1", base, 10, 11)
	b := makeImage(t, c, "docker.io/library/b:1", base, 20)
	alone := makeImage(t, c, "docker.io/library/alone:1", other)
	newA := makeImage(t, c, "docker.io/library/a:1", base, 10, 12)
	for _, test := range []struct {
		name    string
		images  []made
		present []preload.ContentsLayer
		made    []preload.ContentsLayer
		// kept and appended are the names of layers.
		kept, appended []string
		snapshots      int
	}{
		{
			name: "nothing changes", images: []made{a, b}, snapshots: 4,
			present: []preload.ContentsLayer{a.holding("base", 0), a.holding("a", 1, 2), b.holding("b", 1)},
			kept:    []string{"base", "a", "b"},
		},
		{
			name: "one goes, what is shared stays", images: []made{b}, snapshots: 2,
			present: []preload.ContentsLayer{a.holding("base", 0), a.holding("a", 1, 2), b.holding("b", 1)},
			kept:    []string{"base", "b"},
		},
		{
			name: "a layer that holds more than is needed stays when it alone holds something", images: []made{b}, snapshots: 2,
			present: []preload.ContentsLayer{a.holding("a", 0, 1, 2), b.holding("b", 1)},
			kept:    []string{"a", "b"},
		},
		{
			name: "it goes when others hold what is needed of it", images: []made{b}, snapshots: 2,
			present: []preload.ContentsLayer{a.holding("a", 0, 1, 2), b.holding("b", 0, 1)},
			kept:    []string{"b"},
		},
		{
			name: "the last image goes", images: nil,
			present: []preload.ContentsLayer{alone.holding("alone", 0)},
		},
		{
			name: "adding makes only what is not there", images: []made{a, b, alone}, snapshots: 5,
			present:  []preload.ContentsLayer{a.holding("base", 0), a.holding("a", 1, 2)},
			made:     []preload.ContentsLayer{b.holding("base", 0), b.holding("b", 1), alone.holding("alone", 0)},
			kept:     []string{"base", "a"},
			appended: []string{"b", "alone"},
		},
		{
			name: "a made layer that holds nothing new is left out", images: []made{a, b}, snapshots: 4,
			present:  []preload.ContentsLayer{a.holding("a", 0, 1, 2)},
			made:     []preload.ContentsLayer{b.holding("base", 0), b.holding("b", 1)},
			kept:     []string{"a"},
			appended: []string{"b"},
		},
		{
			name: "replacing keeps what both have", images: []made{newA}, snapshots: 3,
			present:  []preload.ContentsLayer{a.holding("base", 0), a.holding("a", 1, 2)},
			made:     []preload.ContentsLayer{newA.holding("base", 0), newA.holding("newA", 1, 2)},
			kept:     []string{"base"},
			appended: []string{"newA"},
		},
		{
			name: "one layer pulled under two names", images: []made{alone}, snapshots: 1,
			present: []preload.ContentsLayer{alone.holding("alone", 0), alone.holding("alone", 0)},
			kept:    []string{"alone"},
		},
		{
			name: "a layer that nothing needed is needed again", images: []made{b, a}, snapshots: 4,
			present: []preload.ContentsLayer{{DiffID: digest.FromString("a"), Blobs: a.holding("a", 0).Blobs, Snapshots: a.holding("a", 0).Snapshots}, b.holding("b", 1)},
			made:    []preload.ContentsLayer{a.holding("a", 0, 1, 2)},
			kept:    []string{"a", "b"},
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			var images []recipes.LockedImage
			for _, m := range test.images {
				images = append(images, m.LockedImage)
			}
			var madeLayers []layers.Layer
			for _, contents := range test.made {
				madeLayers = append(madeLayers, layers.Layer{Contents: contents})
			}
			got, err := arrange(c, images, test.present, madeLayers)
			if err != nil {
				t.Fatal(err)
			}
			all := &preload.Contents{Layers: slices.Clone(got.kept)}
			for i, want := range test.kept {
				if i >= len(got.kept) || got.kept[i].DiffID != digest.FromString(want) {
					t.Errorf("kept layer %d is not %s: %+v", i, want, got.kept)
				}
			}
			for i, want := range test.appended {
				if i >= len(got.appended) || got.appended[i].Contents.DiffID != digest.FromString(want) {
					t.Errorf("appended layer %d is not %s: %+v", i, want, got.appended)
				}
			}
			if len(got.kept) != len(test.kept) || len(got.appended) != len(test.appended) {
				t.Errorf("%d layers are kept and %d appended, want %q and %q", len(got.kept), len(got.appended), test.kept, test.appended)
			}
			for _, layer := range test.present {
				if stays := slices.ContainsFunc(got.kept, func(k preload.ContentsLayer) bool { return k.DiffID == layer.DiffID }); stays == got.dropped[layer.DiffID] {
					t.Errorf("%s is kept: %v, and dropped: %v", layer.DiffID, stays, got.dropped[layer.DiffID])
				}
			}
			for _, layer := range got.appended {
				all.Layers = append(all.Layers, layer.Contents)
			}
			// Databases refuses snapshots whose parents are not there, and those without an image would be collected at boot.
			list := all.Snapshots()
			if len(list) != test.snapshots {
				t.Errorf("the layers hold %d snapshots, want %d", len(list), test.snapshots)
			}
			if _, err := preload.Databases(t.Context(), c, recipes.CRIContainerd, images, list, DefaultEpoch); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestArrangeRefusesWhatIsIncomplete(t *testing.T) {
	c := newCache(t)
	a := makeImage(t, c, "docker.io/library/a:1", 1, 10)
	for name, present := range map[string][]preload.ContentsLayer{
		"a blob":            {{DiffID: digest.FromString("a"), Blobs: a.blobs[:1]}},
		"a parent snapshot": {{DiffID: digest.FromString("a"), Blobs: a.blobs, Snapshots: a.holding("", 1).Snapshots}},
	} {
		if got, err := arrange(c, []recipes.LockedImage{a.LockedImage}, present, nil); err == nil {
			t.Errorf("%s is missing, and the arrangement is %+v", name, got)
		}
	}
}

func TestNewChange(t *testing.T) {
	image := func(reference, content string, role recipes.ImageRole) recipes.LockedImage {
		return recipes.LockedImage{Reference: reference, Digest: digest.FromString(content).String(), Role: role}
	}
	nginx, pause := image("docker.io/library/nginx:1.29", "nginx", recipes.RoleUser), image("registry.k8s.io/pause:3.10.1", "pause", recipes.RoleSandbox)
	dns := image("registry.k8s.io/coredns/coredns:v1.15.0", "dns", recipes.RoleDNS)
	present := []recipes.LockedImage{nginx, dns, pause}
	app := image("docker.io/library/app:dev", "app", recipes.RoleUser)
	for _, test := range []struct {
		name                   string
		add                    []recipes.LockedImage
		remove                 []string
		images, added, removed []string
		problems               []string
	}{
		{name: "add", add: []recipes.LockedImage{app}, images: []string{"app:dev", "nginx:1.29", "coredns", "pause"}, added: []string{"app:dev"}},
		{name: "what is there already", add: []recipes.LockedImage{nginx}, images: []string{"nginx:1.29", "coredns", "pause"}},
		{name: "another name for what is there", add: []recipes.LockedImage{image("docker.io/library/web:1", "nginx", recipes.RoleUser)},
			images: []string{"nginx:1.29", "web:1", "coredns", "pause"}},
		{name: "the same twice", add: []recipes.LockedImage{app, app}, images: []string{"app:dev", "nginx:1.29", "coredns", "pause"}, added: []string{"app:dev"}},
		{name: "replace the sandbox", add: []recipes.LockedImage{image(pause.Reference, "new pause", recipes.RoleUser)},
			images: []string{"nginx:1.29", "coredns", "pause"}, added: []string{"pause"}, removed: []string{"pause"}},
		{name: "remove by short name", remove: []string{"nginx:1.29"}, images: []string{"coredns", "pause"}, removed: []string{"nginx:1.29"}},
		{name: "remove by name and digest", remove: []string{nginx.Reference + "@" + nginx.Digest}, images: []string{"coredns", "pause"}, removed: []string{"nginx:1.29"}},
		{name: "remove a part of Kubernetes", remove: []string{dns.Reference}, images: []string{"nginx:1.29", "pause"}, removed: []string{"coredns"}},
		{name: "two digests", add: []recipes.LockedImage{app, image(app.Reference, "other app", recipes.RoleUser)}, problems: []string{"app:dev is given twice"}},
		{name: "remove and add", add: []recipes.LockedImage{nginx}, remove: []string{nginx.Reference}, problems: []string{"also given with -i"}},
		{name: "remove the sandbox", remove: []string{pause.Reference}, problems: []string{"pod sandbox"}},
		{name: "remove what is not there", remove: []string{"nginx:1.28", "postgres:17"},
			problems: []string{"did you mean docker.io/library/nginx:1.29?", "it holds docker.io/library/nginx:1.29, registry.k8s.io/coredns"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			got, err := newChange(present, test.add, test.remove)
			var input *recipes.InputError
			if test.problems != nil {
				if !errors.As(err, &input) || len(input.Problems) != len(test.problems) {
					t.Fatalf("got %v", err)
				}
				for _, problem := range test.problems {
					if !strings.Contains(err.Error(), problem) {
						t.Errorf("%q is not in the error %v", problem, err)
					}
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			for what, lists := range map[string]struct {
				got  []recipes.LockedImage
				want []string
			}{"images": {got.images, test.images}, "added": {got.added, test.added}, "removed": {got.removed, test.removed}} {
				for i, image := range lists.got {
					if i >= len(lists.want) || !strings.Contains(image.Reference, lists.want[i]) {
						t.Errorf("%s %d is %s, want %q", what, i, image.Reference, lists.want)
					}
					if image.Reference == pause.Reference && image.Role != recipes.RoleSandbox {
						t.Errorf("%s %d: the sandbox has the role %s", what, i, image.Role)
					}
				}
				if len(lists.got) != len(lists.want) {
					t.Errorf("%s: got %d, want %q", what, len(lists.got), lists.want)
				}
			}
		})
	}
}

// TestLabelChanges adds, replaces and removes, in several steps: the label compares with what was built, whatever lies between.
func TestLabelChanges(t *testing.T) {
	image := func(reference, content string) recipes.LockedImage {
		return recipes.LockedImage{Reference: reference, Digest: digest.FromString(content).String()}
	}
	short := func(content string) string { return digest.FromString(content).String() }
	built := []recipes.LockedImage{image("a", "a1"), image("b", "b1")}
	labels := map[string]string{}
	present := built
	for _, step := range []struct {
		images []recipes.LockedImage
		want   string
	}{
		{[]recipes.LockedImage{image("a", "a2"), image("b", "b1"), image("c", "c1")},
			`[{"reference":"a","before":"` + short("a1") + `","after":"` + short("a2") + `"},{"reference":"c","after":"` + short("c1") + `"}]`},
		{[]recipes.LockedImage{image("a", "a2"), image("c", "c2")},
			`[{"reference":"a","before":"` + short("a1") + `","after":"` + short("a2") + `"},{"reference":"b","before":"` + short("b1") + `"},{"reference":"c","after":"` + short("c2") + `"}]`},
		{[]recipes.LockedImage{image("a", "a1"), image("b", "b1"), image("c", "c2")}, `[{"reference":"c","after":"` + short("c2") + `"}]`},
		{built, ""},
	} {
		if err := labelChanges(labels, present, step.images); err != nil {
			t.Fatal(err)
		}
		if got := labels[recipes.LabelChanged]; got != step.want {
			t.Errorf("the label is\n%s\nwant\n%s", got, step.want)
		}
		present = step.images
	}
}

func TestLayersSaid(t *testing.T) {
	images := []recipes.LockedImage{{Reference: "docker.io/library/a:1", Digest: "sha256:a"}, {Reference: "docker.io/library/b:1", Digest: "sha256:b"}}
	for _, test := range []struct {
		name, said  string
		made, holds []string
		want        string
	}{
		{name: "nothing changes", said: "nodeimg: preload docker.io/library/a:1@sha256:a", want: "nodeimg: preload docker.io/library/a:1@sha256:a"},
		{name: "one is gone", said: "nodeimg: preload docker.io/library/a:1@sha256:a, docker.io/library/old:1@sha256:c", want: "nodeimg: preload docker.io/library/a:1@sha256:a"},
		{name: "one was replaced", said: "nodeimg: preload docker.io/library/a:1@sha256:old", made: []string{"docker.io/library/a:1@sha256:a"}, want: "nodeimg: preload docker.io/library/a:1@sha256:a"},
		{name: "one more", said: "nodeimg: preload docker.io/library/b:1", made: []string{"docker.io/library/a:1"}, want: "nodeimg: preload docker.io/library/a:1, docker.io/library/b:1"},
		{name: "pulled by a build step", said: "COPY /out/ /usr/lib/nodeimg/store/ # buildkit", holds: []string{"docker.io/library/b:1"}, want: "nodeimg: preload docker.io/library/b:1"},
		{name: "holding nobody's image", said: "COPY /out/ /usr/lib/nodeimg/store/ # buildkit", want: "COPY /out/ /usr/lib/nodeimg/store/ # buildkit"},
	} {
		if got := layersSaid(test.said, images, test.made, test.holds); got != test.want {
			t.Errorf("%s: got %q, want %q", test.name, got, test.want)
		}
	}
}

// TestWithout holds that layers, diff IDs and history stay beside each other.
func TestWithout(t *testing.T) {
	var img v1.Image = empty.Image
	for _, name := range []string{"one", "two", "three"} {
		layer, err := random.Layer(10, types.DockerLayer)
		if err != nil {
			t.Fatal(err)
		}
		if img, err = mutate.Append(img,
			mutate.Addendum{History: v1.History{CreatedBy: "before " + name, EmptyLayer: true}},
			mutate.Addendum{Layer: layer, MediaType: types.DockerLayer, History: v1.History{CreatedBy: name}}); err != nil {
			t.Fatal(err)
		}
	}
	config, err := img.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	got, err := without(img, config, func(layer int) bool { return layer == 1 })
	if err != nil {
		t.Fatal(err)
	}
	reduced, err := got.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	manifest, err := got.Manifest()
	if err != nil {
		t.Fatal(err)
	}
	all, err := img.Manifest()
	if err != nil {
		t.Fatal(err)
	}
	var said []string
	for _, entry := range reduced.History {
		said = append(said, entry.CreatedBy)
	}
	if want := []string{"before one", "one", "before two", "before three", "three"}; !slices.Equal(said, want) {
		t.Errorf("the history is %q, want %q", said, want)
	}
	if len(manifest.Layers) != 2 || manifest.Layers[0].Digest != all.Layers[0].Digest || manifest.Layers[1].Digest != all.Layers[2].Digest ||
		manifest.Layers[0].MediaType != types.OCILayer || manifest.MediaType != types.OCIManifestSchema1 {
		t.Errorf("the manifest is %+v", manifest)
	}
	if len(reduced.RootFS.DiffIDs) != 2 || reduced.RootFS.DiffIDs[1] != config.RootFS.DiffIDs[2] {
		t.Errorf("the diff IDs are %v", reduced.RootFS.DiffIDs)
	}
}
