package preload

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/opencontainers/go-digest"

	"github.com/nodeimg/nodeimg/internal/cache"
	"github.com/nodeimg/nodeimg/recipes"
)

// fuzzSources has a cache for all inputs of one fuzzing process, and little room for what archives expand to.
func fuzzSources(f *testing.F) *Sources {
	f.Helper()
	before := expandsTo
	f.Cleanup(func() { expandsTo = before })
	expandsTo = 4 << 20
	c, err := cache.Open(f.TempDir())
	if err != nil {
		f.Fatal(err)
	}
	return &Sources{Cache: c, Dir: f.TempDir()}
}

// checkOutcome fails for errors that are not the input's fault, and for images that cannot be read back from the cache.
func checkOutcome(t *testing.T, s *Sources, images []recipes.LockedImage, err error) {
	t.Helper()
	if err != nil {
		if !errors.As(err, new(*recipes.InputError)) {
			t.Fatalf("not refused as bad input: %v", err)
		}
		if len(err.Error()) > 10_000 {
			t.Fatalf("the error has %d bytes", len(err.Error()))
		}
		return
	}
	if len(images) == 0 {
		t.Fatal("neither images nor an error")
	}
	for _, image := range images {
		parts, err := ReadParts(s.Cache, image)
		if err != nil {
			t.Fatalf("%s cannot be read back: %v", image.Reference, err)
		}
		for _, d := range []digest.Digest{parts.Target.Digest, parts.Manifest.Digest, parts.Config.Digest} {
			b, err := os.ReadFile(s.Cache.Path(d))
			if err != nil || digest.FromBytes(b) != d {
				t.Fatalf("%s of %s is wrong in the cache: %v", d, image.Reference, err)
			}
		}
	}
}

// FuzzArchive reads any bytes as an archive, compressed or not, and takes all images out of it.
func FuzzArchive(f *testing.F) {
	var t testing.T
	good := tarOf(&t, (&written{}).entries(&t, func(*written) {})...)
	saved := tarOf(&t, entry{name: "manifest.json", content: []byte(`[{"Config":"c","RepoTags":["a:1"],"Layers":[]}]`)}, entry{name: "c", content: configOf(&t, 0)})
	f.Add(good)
	f.Add(saved)
	f.Add(good[:len(good)-3000])
	f.Add(gzipOf(&t, saved))
	f.Add(zstdOf(&t, saved))
	f.Add(append(bytes.Clone(xzMagic), 0, 4))
	f.Add([]byte("BZh91AY&SY"))
	s := fuzzSources(f)
	file := filepath.Join(s.Dir, "app.tar")
	f.Fuzz(func(t *testing.T, b []byte) {
		if err := os.WriteFile(file, b, 0o644); err != nil {
			t.Fatal(err)
		}
		before := partial(t, s)
		images, err := s.Resolve(t.Context(), recipes.ImageSource{Archive: file}, platform, recipes.RoleUser)
		for _, image := range images {
			if err == nil {
				err = s.Fetch(t.Context(), image)
			}
		}
		if after := partial(t, s); after != before {
			t.Fatalf("%d unfinished files are left, before there were %d", after, before)
		}
		checkOutcome(t, s, images, err)
	})
}

func partial(t *testing.T, s *Sources) int {
	t.Helper()
	entries, err := os.ReadDir(filepath.Join(s.Cache.Root(), "partial"))
	if err != nil {
		t.Fatal(err)
	}
	return len(entries)
}

// FuzzManifests reads any texts as the index.json of a layout, what it leads to, and the config of that. Words stand for what fuzzing
// cannot find: the digests of the others, and a size.
func FuzzManifests(f *testing.F) {
	const (
		index    = `{"manifests":[{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":"@manifest","size":@size,"annotations":{"org.opencontainers.image.ref.name":"a:1"}}]}`
		middle   = `{"schemaVersion":2,"manifests":[{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":"@config","size":@length,"platform":{"os":"linux","architecture":"amd64"}}]}`
		manifest = `{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","config":{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"@config","size":@length},"layers":[{"mediaType":"application/vnd.oci.image.layer.v1.tar+gzip","digest":"sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855","size":0}]}`
		config   = `{"os":"linux","architecture":"amd64","rootfs":{"type":"layers","diff_ids":["sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"]}}`
	)
	f.Add(index, manifest, config)
	f.Add(index, middle, manifest)
	f.Add(strings.Replace(index, "image.manifest", "image.index", 1), middle, manifest)
	f.Add(`{"manifests":[{"digest":"@manifest","annotations":{"io.containerd.image.name":"a"}},{"digest":"@config"}]}`, `{"layers":[{}]}`, `[]`)
	s := fuzzSources(f)
	f.Fuzz(func(t *testing.T, index, manifest, config string) {
		if len(index)+len(manifest)+len(config) > 1<<20 {
			return
		}
		manifest = strings.NewReplacer("@config", digest.FromString(config).String(), "@length", fmt.Sprint(len(config))).Replace(manifest)
		index = strings.NewReplacer("@manifest", digest.FromString(manifest).String(), "@size", fmt.Sprint(len(manifest)),
			"@config", digest.FromString(config).String(), "@length", fmt.Sprint(len(config))).Replace(index)
		files := fstest.MapFS{"index.json": {Data: []byte(index)}}
		for _, text := range []string{manifest, config} {
			files["blobs/sha256/"+digest.FromString(text).Encoded()] = &fstest.MapFile{Data: []byte(text)}
		}
		for _, want := range []string{"", "example.com/b:1"} {
			l, err := openFiles("layout", files, nil, want)
			var images []recipes.LockedImage
			if err == nil {
				images, err = l.resolve(s.Cache, platform)
			}
			checkOutcome(t, s, images, err)
		}
	})
}
