package containers

import (
	"errors"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/identity"

	"github.com/nodeimg/nodeimg/internal/cache"
	"github.com/nodeimg/nodeimg/preload"
	"github.com/nodeimg/nodeimg/preload/trees"
	"github.com/nodeimg/nodeimg/recipes"
)

var epoch = time.Unix(1700000000, 0)

// newImage makes an image with n layers, of which only manifest and config are put into the cache.
func newImage(t *testing.T, c *cache.Cache, n int64) v1.Image {
	t.Helper()
	image, err := random.Image(100, n)
	if err != nil {
		t.Fatal(err)
	}
	if n == 0 {
		image = empty.Image
	}
	manifest, err := image.RawManifest()
	if err != nil {
		t.Fatal(err)
	}
	config, err := image.RawConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	for _, b := range [][]byte{manifest, config} {
		if _, err := c.PutBytes(b); err != nil {
			t.Fatal(err)
		}
	}
	return image
}

// locked is what a lock says of an image.
func locked(t *testing.T, reference string, image v1.Image) recipes.LockedImage {
	t.Helper()
	manifest, err := image.RawManifest()
	if err != nil {
		t.Fatal(err)
	}
	mediaType, err := image.MediaType()
	if err != nil {
		t.Fatal(err)
	}
	d := digest.FromBytes(manifest).String()
	return recipes.LockedImage{Reference: reference, Digest: d, Manifest: d, MediaType: string(mediaType), Size: int64(len(manifest)), Platform: "linux/amd64"}
}

// unpacked are the snapshots of an image from its layer number first on; that one holds what is below it.
func unpacked(t *testing.T, c *cache.Cache, image recipes.LockedImage, first int) []trees.Snapshot {
	t.Helper()
	parts, err := preload.ReadParts(c, image)
	if err != nil {
		t.Fatal(err)
	}
	var list []trees.Snapshot
	chains := identity.ChainIDs(slices.Clone(parts.DiffIDs))
	for i, chain := range chains[first:] {
		s := trees.Snapshot{ChainID: chain, Size: int64(i+1) * 1000}
		if i > 0 {
			s.Parent = chains[first+i-1]
		}
		list = append(list, s)
	}
	return list
}

func newCache(t *testing.T) *cache.Cache {
	t.Helper()
	c, err := cache.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestFilesAreDeterministic(t *testing.T) {
	c := newCache(t)
	one, two := newImage(t, c, 3), newImage(t, c, 1)
	images := []recipes.LockedImage{locked(t, "example.com/one:1", one), locked(t, "example.com/two:1", two), locked(t, "example.com/again:1", one), locked(t, "example.com/none:1", newImage(t, c, 0))}
	list := slices.Concat(unpacked(t, c, images[0], 1), unpacked(t, c, images[1], 0))
	files, err := Files(c, images, list, epoch)
	if err != nil {
		t.Fatal(err)
	}
	slices.Reverse(images)
	slices.Reverse(list)
	again, err := Files(c, images, list, epoch.In(time.FixedZone("far", 3600)))
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(files, again) {
		t.Error("the order of the inputs or the time zone shows in the files")
	}
	later, err := Files(c, images, list, epoch.Add(time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	if reflect.DeepEqual(files, later) {
		t.Error("the time does not show in the files")
	}
	lower, diff := 0, 0
	for _, f := range files {
		switch {
		case strings.HasSuffix(f.Path, "/lower"):
			lower++
		case strings.HasSuffix(f.Path, "/diff"):
			diff++
			if !strings.HasPrefix(f.Link, recipes.SnapshotsPath+"/") || !strings.HasSuffix(f.Link, "/fs") {
				t.Errorf("%s leads to %q", f.Path, f.Link)
			}
		case f.Path == "overlay-images/images.json":
			// Two names of one image are one record.
			if text := string(f.Content); strings.Count(text, `"id":`) != 3 || !strings.Contains(text, `"names":["example.com/again:1","example.com/one:1"]`) {
				t.Errorf("images.json is %s", text)
			}
		}
	}
	// Of the first image the lowest layer is in the tree of the second, which has no parent then.
	if diff != 3 || lower != 1 {
		t.Errorf("the store has %d layers, %d of them upon others", diff, lower)
	}
}

// TestFilesClaimNoLayer makes sure that nothing pulled later is put together with the trees of the store.
func TestFilesClaimNoLayer(t *testing.T) {
	c := newCache(t)
	image := locked(t, "example.com/one:1", newImage(t, c, 2))
	parts, err := preload.ReadParts(c, image)
	if err != nil {
		t.Fatal(err)
	}
	files, err := Files(c, []recipes.LockedImage{image}, unpacked(t, c, image, 0), epoch)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		if f.Path != "overlay-layers/layers.json" {
			continue
		}
		for i, chain := range identity.ChainIDs(slices.Clone(parts.DiffIDs)) {
			for _, d := range []digest.Digest{chain, parts.DiffIDs[i], parts.Layers[i].Digest} {
				if strings.Contains(string(f.Content), d.Encoded()) {
					t.Errorf("the record of a layer names %s", d)
				}
			}
		}
		return
	}
	t.Error("there is no layers.json")
}

func TestFilesRefuse(t *testing.T) {
	c := newCache(t)
	one := newImage(t, c, 2)
	image := locked(t, "example.com/one:1", one)
	list := unpacked(t, c, image, 0)
	other, err := mutate.Config(one, v1.Config{User: "other"})
	if err != nil {
		t.Fatal(err)
	}
	config, err := other.RawConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	manifest, err := other.RawManifest()
	if err != nil {
		t.Fatal(err)
	}
	for _, b := range [][]byte{config, manifest} {
		if _, err := c.PutBytes(b); err != nil {
			t.Fatal(err)
		}
	}
	for _, test := range []struct {
		name   string
		images []recipes.LockedImage
		list   []trees.Snapshot
		want   string
		input  bool
	}{
		{"a packed image", []recipes.LockedImage{image}, nil, "example.com/one:1: it lies in the node image packed", true},
		{"an image without its last tree", []recipes.LockedImage{image}, list[:1], "example.com/one:1: it lies in the node image packed", true},
		{"a tree without its parent", []recipes.LockedImage{image}, list[1:], list[0].ChainID.String() + " is missing", false},
		{"a tree that is its own parent", nil, []trees.Snapshot{{ChainID: list[0].ChainID, Parent: list[0].ChainID}}, "its own parent", false},
		{"a tree that is there twice", nil, []trees.Snapshot{list[0], {ChainID: list[0].ChainID, Size: 5}}, "is there twice", false},
		{"two images of one name", []recipes.LockedImage{image, locked(t, image.Reference, other)}, list, "two images have this name", false},
	} {
		_, err := Files(c, test.images, test.list, epoch)
		var input *recipes.InputError
		if err == nil || !strings.Contains(err.Error(), test.want) || errors.As(err, &input) != test.input {
			t.Errorf("%s: %v", test.name, err)
		}
	}
}
