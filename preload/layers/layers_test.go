package layers_test

import (
	"archive/tar"
	"os"
	"path"
	"slices"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/validate"
	"github.com/opencontainers/go-digest"

	"github.com/nodeimg/nodeimg/internal/cache"
	"github.com/nodeimg/nodeimg/preload/layers"
	"github.com/nodeimg/nodeimg/recipes"
)

// TestSameImageSameLayers puts one image into two node images that have nothing else in common.
func TestSameImageSameLayers(t *testing.T) {
	bothLayouts(t, func(t *testing.T, layout recipes.Layout) {
		app := imageOf(t, layer(t, "base", big), layer(t, "tool", small), layer(t, "program", big), layer(t, "settings", small))
		sibling := imageOf(t, layer(t, "base", big), layer(t, "other", small))
		make := func(others ...v1.Image) ([]layers.Layer, []string) {
			c := newCache(t)
			images := []recipes.LockedImage{put(t, c, "registry.example/app:1", app)}
			for i, other := range others {
				images = append(images, put(t, c, name(i), other))
			}
			made := mustMake(t, c, images, options(layout))
			return made, digests(t, made, "registry.example/app:1")
		}
		_, alone := make()
		made, beside := make(sibling, imageOf(t, layer(t, "x", small)), imageOf(t, layer(t, "y", big)))
		slices.Sort(alone)
		slices.Sort(beside)
		if !slices.Equal(alone, beside) || len(alone) < 3 {
			t.Errorf("alone %v\nbeside others %v", alone, beside)
		}
		shared := made[slices.IndexFunc(made, func(l layers.Layer) bool { return len(l.References) > 1 })]
		if want := []string{"registry.example/app-000:1", "registry.example/app:1"}; !slices.Equal(shared.References, want) {
			t.Errorf("the base's layer belongs to %v, want %v", shared.References, want)
		}
		if first, _ := made[0].Digest(); first.String() != digests(t, []layers.Layer{shared}, "")[0] {
			t.Error("the shared layer is not the first")
		}
	})
}

// TestNumberOfLayers says how many layers an image has of its own.
func TestNumberOfLayers(t *testing.T) {
	for name, test := range map[string]struct {
		sizes            []int
		packed, unpacked int
	}{
		"empty":                     {nil, 0, 0},
		"one small layer":           {[]int{small}, 1, 1},
		"one big layer":             {[]int{big}, 1, 1},
		"small ones below":          {[]int{small, small, small, big}, 2, 1},
		"small ones above":          {[]int{big, small, small}, 2, 2},
		"small ones only":           {[]int{small, small, small, small}, 1, 1},
		"small ones make a big one": {[]int{big * 3 / 10, big * 3 / 10, big * 3 / 10}, 1, 2},
	} {
		t.Run(name, func(t *testing.T) {
			var list []v1.Layer
			for i, size := range test.sizes {
				list = append(list, layer(t, string(rune('a'+i)), size))
			}
			c := newCache(t)
			images := []recipes.LockedImage{put(t, c, "registry.example/app:1", imageOf(t, list...))}
			for layout, want := range map[recipes.Layout]int{recipes.LayoutPacked: test.packed, recipes.LayoutUnpacked: test.unpacked} {
				if made := mustMake(t, c, images, options(layout)); len(made) != want {
					t.Errorf("%s: %d layers, want %d", layout, len(made), want)
				}
			}
		})
	}
}

// TestContents compares what is said about the layers with what is in them, and what is in them with the images.
func TestContents(t *testing.T) {
	bothLayouts(t, func(t *testing.T, layout recipes.Layout) {
		c := newCache(t)
		base := layer(t, "base", big)
		images := []recipes.LockedImage{
			put(t, c, "registry.example/a:1", imageOf(t, base, layer(t, "a", small))),
			put(t, c, "registry.example/b:1", imageOf(t, base, layerOf(t, file("data/.wh.base", nil)), layer(t, "b", small))),
			put(t, c, "registry.example/c:1", imageOf(t, layer(t, "c", small), base)),
		}
		checkContents(t, c, images, mustMake(t, c, images, options(layout)), layout)
	})
}

// checkContents checks layers that hold everything of the images.
func checkContents(t *testing.T, c *cache.Cache, images []recipes.LockedImage, made []layers.Layer, layout recipes.Layout) {
	t.Helper()
	blobs, snapshots := map[digest.Digest]bool{}, map[digest.Digest]bool{}
	for i, l := range made {
		if err := validate.Layer(l); err != nil {
			t.Errorf("layer %d: %v", i, err)
		}
		if d, err := l.DiffID(); err != nil || d.String() != l.Contents.DiffID.String() {
			t.Errorf("layer %d: diff id %v, %v; its contents say %s", i, d, err, l.Contents.DiffID)
		}
		order, headers, sums := read(t, l)
		checkFolders(t, order, headers)
		expected := map[string]bool{}
		for _, b := range l.Contents.Blobs {
			blobs[b] = true
			name := strings.TrimPrefix(recipes.StorePath, "/") + "/blobs/sha256/" + b.Encoded()
			expected[name] = true
			if sums[name] != b {
				t.Errorf("layer %d: blob %s has the digest %s", i, b, sums[name])
			}
		}
		var folders []string
		for _, s := range l.Contents.Snapshots {
			snapshots[s.ChainID] = true
			folder := strings.TrimPrefix(recipes.SnapshotsPath, "/") + "/" + s.ChainID.Encoded() + "/"
			folders = append(folders, folder)
			if headers[folder+"fs/"] == nil {
				t.Errorf("layer %d: snapshot %s has no tree", i, s.ChainID)
			}
		}
		for _, name := range order {
			inSnapshot := slices.ContainsFunc(folders, func(folder string) bool { return strings.HasPrefix(name, folder) })
			if headers[name].Typeflag != tar.TypeDir && !inSnapshot && !expected[name] {
				t.Errorf("layer %d: unexpected %s", i, name)
			}
		}
	}
	for _, image := range images {
		checkComplete(t, c, image, blobs, snapshots, layout)
	}
}

// checkFolders holds layers to what a registry's readers need: each folder stands before what is in it.
func checkFolders(t *testing.T, order []string, headers map[string]*tar.Header) {
	t.Helper()
	seen := map[string]bool{"./": true}
	for _, name := range order {
		if parent := path.Dir(strings.TrimSuffix(name, "/")) + "/"; !seen[parent] {
			t.Errorf("%s stands before its folder", name)
		}
		if headers[name].Typeflag == tar.TypeDir {
			seen[name] = true
		}
		ours := !strings.HasPrefix(name, strings.TrimPrefix(recipes.SnapshotsPath, "/")+"/")
		if h := headers[name]; ours && (!h.ModTime.Equal(epoch) || h.Uid != 0 || h.Gid != 0 || h.Mode&0o022 != 0) {
			t.Errorf("%s: time %v, owner %d:%d, mode %o", name, h.ModTime, h.Uid, h.Gid, h.Mode)
		}
	}
}

// checkComplete checks that all blobs of the image's layers are there, and the snapshot that its containers start from.
func checkComplete(t *testing.T, c *cache.Cache, image recipes.LockedImage, blobs, snapshots map[digest.Digest]bool, layout recipes.Layout) {
	t.Helper()
	parts := mustParts(t, c, image)
	for _, d := range parts.Layers {
		if !blobs[d.Digest] {
			t.Errorf("%s: blob %s is in no layer", image.Reference, d.Digest)
		}
	}
	switch top := topChain(parts); {
	case layout == recipes.LayoutPacked && len(snapshots) > 0:
		t.Errorf("packed images have the snapshots %v", snapshots)
	case layout == recipes.LayoutUnpacked && top != "" && !snapshots[top]:
		t.Errorf("%s: snapshot %s is in no layer", image.Reference, top)
	}
}

// TestBlobsOnce wants each big blob once where an image keeps the tree that another deletes from.
func TestBlobsOnce(t *testing.T) {
	bothLayouts(t, func(t *testing.T, layout recipes.Layout) {
		c := newCache(t)
		base := layer(t, "base", big)
		keeping := put(t, c, "registry.example/a:1", imageOf(t, base))
		deleting := put(t, c, "registry.example/b:1", imageOf(t, base, layerOf(t, file("data/.wh.base", nil))))
		count := func(images ...recipes.LockedImage) (n int) {
			want := mustParts(t, c, keeping).Layers[0].Digest
			for _, l := range mustMake(t, c, images, options(layout)) {
				if slices.Contains(l.Contents.Blobs, want) {
					n++
					if len(l.References) != len(images) {
						t.Errorf("the base's layer belongs to %v", l.References)
					}
				}
			}
			return n
		}
		if count(deleting) != 1 || count(keeping, deleting) != 1 {
			t.Errorf("alone it is there %d times, with the other image %d times", count(deleting), count(keeping, deleting))
		}
	})
}

func TestWithoutBlobs(t *testing.T) {
	c := newCache(t)
	images := []recipes.LockedImage{put(t, c, "registry.example/a:1", imageOf(t, layer(t, "a", big), layer(t, "b", small)))}
	for layout, want := range map[recipes.Layout]int{recipes.LayoutPacked: 0, recipes.LayoutUnpacked: 2} {
		o := options(layout)
		o.WithoutBlobs = true
		made := mustMake(t, c, images, o)
		if len(made) != want {
			t.Errorf("%s: %d layers, want %d", layout, len(made), want)
		}
		for _, l := range made {
			if len(l.Contents.Blobs) > 0 || len(l.Contents.Snapshots) != 1 {
				t.Errorf("%s: a layer holds %+v", layout, l.Contents)
			}
		}
	}
}

// TestTwoCaches wants the same bytes from another machine.
func TestTwoCaches(t *testing.T) {
	bothLayouts(t, func(t *testing.T, layout recipes.Layout) {
		// Some megabytes that compress as programs do.
		program, err := os.ReadFile(os.Args[0])
		if err != nil {
			t.Fatal(err)
		}
		base := layerOf(t, file("program", program))
		var got [2][]string
		for i := range got {
			c := newCache(t)
			images := []recipes.LockedImage{
				put(t, c, "registry.example/a:1", imageOf(t, base, layer(t, "a", small))),
				put(t, c, "registry.example/b:1", imageOf(t, base, layer(t, "b", small))),
			}
			if i == 1 {
				slices.Reverse(images)
			}
			got[i] = digests(t, mustMake(t, c, images, options(layout)), "")
		}
		if !slices.Equal(got[0], got[1]) || len(got[0]) != 3 {
			t.Errorf("one cache gives %v, another %v", got[0], got[1])
		}
	})
}
