package preload

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/opencontainers/go-digest"

	"github.com/nodeimg/nodeimg/recipes"
)

// TestChosenImages takes images out of archives and layouts that hold several, or some without a name.
func TestChosenImages(t *testing.T) {
	s := newSources(t)
	at := func(name string) string { return filepath.Join(s.Dir, name) }
	one, two := newImage(t, "amd64", 1, 300), newImage(t, "amd64", 2, 300)
	tags := map[name.Tag]v1.Image{}
	for tag, image := range map[string]v1.Image{"example.com/one:1": one, "example.com/two:1": two, "example.com/uno:1": one} {
		ref, err := name.NewTag(tag)
		if err != nil {
			t.Fatal(err)
		}
		tags[ref] = image
	}
	if err := tarball.MultiWriteToFile(at("docker.tar"), tags); err != nil {
		t.Fatal(err)
	}
	oci := newOCIImage(t, "amd64", 1, 300)
	index := newIndex(t, map[string]v1.Image{"arm64": newOCIImage(t, "arm64", 1, 10), "amd64": oci})
	writeLayout(t, at("layout"), map[string]any{"example.com/one:1": one, "example.com/two:1": index})
	writeLayout(t, at("nameless"), map[string]any{"": index})
	tarDirectory(t, at("nameless"), at("nameless.tar"))
	writeLayout(t, at("tags"), map[string]any{"v1": one, "v2": two})
	// An image without a name in a docker-archive, as "docker save ID" writes it.
	writeArchive(t, at("id.tar"), "example.com/one:1", one)
	patchArchive(t, at("id.tar"), func(name string, b []byte) []byte {
		if name == "manifest.json" {
			return []byte(strings.Replace(string(b), `["example.com/one:1"]`, "null", 1))
		}
		return b
	})
	twoDigest, indexDigest := digest.FromBytes(rawManifest(t, two)).String(), digest.FromBytes(rawManifest(t, index)).String()
	oneDigest := digest.FromBytes(rawManifest(t, one)).String()

	for _, test := range []struct {
		src  recipes.ImageSource
		want []string
	}{
		{recipes.ImageSource{Archive: "docker.tar"}, []string{"example.com/one:1", "example.com/two:1", "example.com/uno:1"}},
		{recipes.ImageSource{Archive: "docker.tar", Name: "example.com/two:1"}, []string{"example.com/two:1"}},
		{recipes.ImageSource{Archive: "id.tar", Name: "example.com/mine:1"}, []string{"example.com/mine:1"}},
		{recipes.ImageSource{Layout: "layout"}, []string{"example.com/one:1 " + oneDigest, "example.com/two:1 " + indexDigest}},
		{recipes.ImageSource{Layout: "layout", Name: "example.com/two:1"}, []string{"example.com/two:1 " + indexDigest}},
		{recipes.ImageSource{Layout: "layout", Name: "example.com/two:1@" + indexDigest}, []string{"example.com/two:1 " + indexDigest}},
		{recipes.ImageSource{Layout: "nameless", Name: "mine:1"}, []string{"docker.io/library/mine:1 " + indexDigest}},
		{recipes.ImageSource{Archive: "nameless.tar", Name: "mine@" + indexDigest}, []string{"docker.io/library/mine@" + indexDigest + " " + indexDigest}},
		{recipes.ImageSource{Layout: "tags", Name: "example.com/app:v2"}, []string{"example.com/app:v2 " + twoDigest}},
	} {
		t.Run(describe(test.src), func(t *testing.T) {
			locked := mustResolve(t, s, test.src)
			mustFetch(t, s, locked)
			var got []string
			for _, image := range locked {
				if image.Source != test.src {
					t.Errorf("the source is %+v", image.Source)
				}
				got = append(got, image.Reference+" "+image.Digest)
			}
			slices.Sort(got)
			for i, want := range test.want {
				if i >= len(got) || got[i] != want && !strings.HasPrefix(got[i], want+" ") {
					t.Fatalf("got %v, want %v", got, test.want)
				}
			}
			// A cache that has lost everything is filled from the lock alone.
			mustFetch(t, &Sources{Cache: newCache(t), Dir: s.Dir}, locked)
		})
	}
	for _, test := range []struct {
		src  recipes.ImageSource
		says []string
	}{
		{recipes.ImageSource{Archive: "docker.tar", Name: "example.com/tow:1"}, []string{"no image named example.com/tow:1", "example.com/one:1", "did you mean example.com/two:1"}},
		{recipes.ImageSource{Layout: "tags", Name: "example.com/app:v3"}, []string{"2 without a name"}},
		{recipes.ImageSource{Layout: "tags"}, []string{"no image with a name", `"name"`}},
		{recipes.ImageSource{Archive: "id.tar"}, []string{"no image with a name", `"name"`}},
		{recipes.ImageSource{Layout: "layout", Name: "example.com/two:1@" + oneDigest}, []string{"example.com/two:1", indexDigest, oneDigest}},
		{recipes.ImageSource{Archive: "*.zip"}, []string{"matches no file"}},
	} {
		refused(t, s, test.src, test.says...)
	}
}

// refused resolves and fetches what must be refused as bad input, and looks for what is left in the cache.
func refused(t *testing.T, s *Sources, src recipes.ImageSource, says ...string) {
	t.Helper()
	before := leftovers(t, s)
	images, err := s.Resolve(t.Context(), src, platform, recipes.RoleUser)
	for _, image := range images {
		if err == nil {
			err = s.Fetch(t.Context(), image)
		}
	}
	if !errors.As(err, new(*recipes.InputError)) {
		t.Errorf("%s gives %v, want bad input", describe(src), err)
		return
	}
	if len(err.Error()) > 2000 {
		t.Errorf("%s: the error has %d bytes", describe(src), len(err.Error()))
	}
	if images == nil {
		says = append(says, describe(src))
	} else {
		says = append(says, images[0].Reference)
	}
	for _, want := range says {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%s gives %v, want %q in it", describe(src), err, want)
		}
	}
	if images == nil {
		if after := leftovers(t, s); !slices.Equal(before, after) {
			t.Errorf("%s left in the cache:\n%s\nbefore:\n%s", describe(src), strings.Join(after, "\n"), strings.Join(before, "\n"))
		}
	}
}

// leftovers are the blobs and unfinished files of the cache.
func leftovers(t *testing.T, s *Sources) []string {
	t.Helper()
	var names []string
	for _, dir := range []string{"blobs/sha256", "partial"} {
		entries, err := os.ReadDir(filepath.Join(s.Cache.Root(), dir))
		if err != nil {
			t.Fatal(err)
		}
		for _, entry := range entries {
			names = append(names, dir+"/"+entry.Name())
		}
	}
	return names
}

// TestPatternOfArchives preloads every archive of a folder.
func TestPatternOfArchives(t *testing.T) {
	s := newSources(t)
	for _, app := range []string{"c", "a", "b"} {
		writeArchive(t, mustMake(t, s.Dir, "images", app+".tar"), "example.com/"+app+":1", newImage(t, "amd64", 1, 100))
	}
	writeFile(t, filepath.Join(s.Dir, "images", "notes.txt"), []byte("no archive"))
	locked := mustResolve(t, s, recipes.ImageSource{Archive: "images/*.tar"})
	var got []string
	for _, image := range locked {
		got = append(got, image.Reference+" "+image.Source.Archive)
	}
	if want := []string{"example.com/a:1 images/a.tar", "example.com/b:1 images/b.tar", "example.com/c:1 images/c.tar"}; !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	// The lock names the files, so that one that comes later does not change what is fetched.
	writeArchive(t, filepath.Join(s.Dir, "images", "0.tar"), "example.com/a:1", newImage(t, "amd64", 1, 100))
	mustFetch(t, &Sources{Cache: newCache(t), Dir: s.Dir}, locked)
}

func mustMake(t *testing.T, elements ...string) string {
	t.Helper()
	file := filepath.Join(elements...)
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		t.Fatal(err)
	}
	return file
}

// TestCompressions reads what the usual programs write.
func TestCompressions(t *testing.T) {
	s := newSources(t)
	file := filepath.Join(s.Dir, "app.tar")
	writeArchive(t, file, "example.com/app:1", newImage(t, "amd64", 2, 100_000))
	want := mustResolve(t, s, recipes.ImageSource{Archive: "app.tar"})[0].Digest
	for _, program := range [][]string{{"gzip", "-k", ".gz"}, {"xz", "-k", "-9", ".xz"}, {"bzip2", "-k", ".bz2"}, {"zstd", "-q", "-k", "--ultra", "-22", ".zst"}} {
		args, extension := program[:len(program)-1], program[len(program)-1]
		if out, err := exec.CommandContext(t.Context(), args[0], append(args[1:], file)...).CombinedOutput(); err != nil {
			t.Errorf("%v: %v: %s", args, err, out)
			continue
		}
		lost := &Sources{Cache: newCache(t), Dir: s.Dir}
		locked := mustResolve(t, lost, recipes.ImageSource{Archive: "app.tar" + extension})
		mustFetch(t, lost, locked)
		if locked[0].Digest != want {
			t.Errorf("%s became %s, uncompressed it is %s", extension, locked[0].Digest, want)
		}
		before := leftovers(t, lost)
		mustResolve(t, lost, recipes.ImageSource{Archive: "app.tar" + extension})
		if after := leftovers(t, lost); !slices.Equal(before, after) {
			t.Errorf("%s: the cache grew from %d to %d blobs", extension, len(before), len(after))
		}
	}
}
