package containers

import (
	"bytes"
	"encoding/json"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/nodeimg/nodeimg/internal/cache"
	"github.com/nodeimg/nodeimg/recipes"
)

const folder = "/somewhere/trees"

// over is a store with the images, whose trees lie in the folder.
func over(t *testing.T, c *cache.Cache, images ...recipes.LockedImage) []File {
	t.Helper()
	var files []File
	for _, image := range images {
		more, err := FilesOver(c, []recipes.LockedImage{image}, unpacked(t, c, image, 0), func(chain digest.Digest) string { return folder + "/" + chain.Encoded() }, epoch)
		if err != nil {
			t.Fatal(err)
		}
		if files == nil {
			files = more
			continue
		}
		files = merge(t, files, more)
	}
	return files
}

func merge(t *testing.T, current, added []File, inUse ...string) []File {
	t.Helper()
	files, err := Merge(current, added, func(id string) bool { return slices.Contains(inUse, id) })
	if err != nil {
		t.Fatal(err)
	}
	return files
}

func content(t *testing.T, files []File, path string) []byte {
	t.Helper()
	for _, f := range files {
		if f.Path == path {
			return f.Content
		}
	}
	t.Fatalf("there is no %s", path)
	return nil
}

// named are the names of a store's images by their ids.
func named(t *testing.T, files []File) map[string]string {
	t.Helper()
	var records []imageRecord
	if err := json.Unmarshal(content(t, files, "overlay-images/images.json"), &records); err != nil {
		t.Fatal(err)
	}
	names := map[string]string{}
	for _, r := range records {
		names[r.ID] = strings.Join(r.Names, " ")
		for _, key := range r.BigDataNames {
			if got := content(t, files, dataPath(r.ID, key)); int64(len(got)) != r.BigDataSizes[key] {
				t.Errorf("%s of %s has %d bytes, its record says %d", key, r.ID, len(got), r.BigDataSizes[key])
			}
		}
	}
	return names
}

// TestMerge follows a name from image to image: what it leaves stays until the next merge, and as long as a container is made of it.
func TestMerge(t *testing.T) {
	c := newCache(t)
	const name = "example.com/app:dev"
	stays := locked(t, "example.com/stays:1", newImage(t, c, 2))
	var images []recipes.LockedImage
	var ids []string
	for range 3 {
		image := locked(t, name, newImage(t, c, 2))
		images = append(images, image)
		for id := range named(t, over(t, c, image)) {
			ids = append(ids, id)
		}
	}
	store := over(t, c, stays, images[0])
	for i, test := range []struct {
		inUse []string
		want  []string
	}{
		{nil, []string{ids[0], ids[1]}},
		{[]string{ids[0]}, []string{ids[0], ids[1], ids[2]}},
	} {
		before := store
		store = merge(t, before, over(t, c, images[i+1]), test.inUse...)
		names := named(t, store)
		if len(names) != len(test.want)+1 || names[ids[i+1]] != name {
			t.Errorf("merge %d: %v; want the name at %s", i+1, names, ids[i+1])
		}
		for _, id := range test.want {
			if _, ok := names[id]; !ok {
				t.Errorf("merge %d: image %s is gone", i+1, id)
			}
		}
		for _, file := range []string{"overlay-layers/layers.lock", "overlay-images/images.lock"} {
			if lock := content(t, store, file); len(lock) != 64 || bytes.Equal(lock, content(t, before, file)) {
				t.Errorf("merge %d: CRI-O would not read the records again: %s has %d bytes", i+1, file, len(lock))
			}
		}
		layers, err := Layers(content(t, store, "overlay-layers/layers.json"))
		if err != nil {
			t.Fatal(err)
		}
		if trees := Trees(store, folder); len(trees) != 2*len(names) || len(layers) != 2*len(names) {
			t.Errorf("merge %d: %d layers, trees %v", i+1, len(layers), trees)
		}
	}
	store = merge(t, store, over(t, c, stays))
	if names := named(t, store); len(names) != 2 || names[ids[2]] != name {
		t.Errorf("without containers of them the images without names are not gone: %v", names)
	}
	if again := merge(t, store, over(t, c, images[2])); !slices.EqualFunc(again, store, func(a, b File) bool { return a.Path == b.Path && a.Link == b.Link && bytes.Equal(a.Content, b.Content) }) {
		t.Error("what is there already changes the store")
	}
}

// TestMergeNames gives one image a second name.
func TestMergeNames(t *testing.T) {
	c := newCache(t)
	image := newImage(t, c, 1)
	store := over(t, c, locked(t, "example.com/b:1", image), locked(t, "example.com/a:1", image))
	for id, names := range named(t, store) {
		if names != "example.com/a:1 example.com/b:1" {
			t.Errorf("%s is called %q", id, names)
		}
	}
	names, err := Names(content(t, store, "overlay-images/images.json"))
	if err != nil || len(names) != 2 {
		t.Errorf("names %v, %v", names, err)
	}
	if text := string(Pinned(append(names, names...))); strings.Count(text, "example.com") != 2 {
		t.Errorf("pinned:\n%s", text)
	}
}

func TestMergeRefuses(t *testing.T) {
	c := newCache(t)
	added := over(t, c, locked(t, "example.com/one:1", newImage(t, c, 2)))
	current := over(t, c, locked(t, "example.com/two:1", newImage(t, c, 2)))
	without := func(part string) []File {
		return slices.DeleteFunc(slices.Clone(current), func(f File) bool { return strings.Contains(f.Path, part) })
	}
	for _, part := range []string{"images.json", "layers.json", "/diff", "/link", "/manifest"} {
		if _, err := Merge(without(part), added, func(string) bool { return false }); err == nil {
			t.Errorf("a store without %s was merged", part)
		}
	}
}
