package preload

import (
	"archive/tar"
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/nodeimg/nodeimg/recipes"
)

// TestHostileManifests has OCI archives whose manifests, indexes or configs are not what they should be.
func TestHostileManifests(t *testing.T) {
	const gibberish = "sha256:0123"
	zero := digest.FromString("")
	nested := func(kind string) func(*written) {
		return func(w *written) {
			w.descriptor.MediaType = ocispec.MediaTypeImageIndex
			platform := &ocispec.Platform{OS: "linux", Architecture: "amd64"}
			w.manifestText = mustJSON(t, ocispec.Index{MediaType: ocispec.MediaTypeImageIndex, Manifests: []ocispec.Descriptor{{MediaType: kind, Digest: digest.FromString("x"), Size: 1, Platform: platform}}})
		}
	}
	for name, test := range map[string]struct {
		spoil func(*written)
		says  string
	}{
		"too many layers": {func(w *written) {
			for range 501 {
				w.manifest.Layers = append(w.manifest.Layers, w.manifest.Layers[0])
			}
		}, "502 layers"},
		"JSON bomb":               {func(w *written) { w.manifestText = []byte(`{"layers":[` + strings.Repeat("{},", 1<<20) + `{}]}`) }, "values"},
		"deep JSON":               {func(w *written) { w.manifestText = []byte(strings.Repeat("[", 1<<20)) }, "deep"},
		"JSON bomb in the index":  {func(w *written) { w.indexText = []byte(`{"manifests":[` + strings.Repeat("{},", 1<<20) + `{}]}`) }, "values"},
		"JSON bomb in the config": {func(w *written) { w.config.History = make([]ocispec.History, 1<<18) }, "values"},
		"huge manifest":           {func(w *written) { w.manifestText = bytes.Repeat([]byte(" "), maxManifest+1) }, "larger than"},
		"huge index":              {func(w *written) { w.indexText = bytes.Repeat([]byte(" "), maxManifest+1) }, "larger than"},
		"config of a terabyte":    {func(w *written) { w.manifest.Config.Size = 1 << 40 }, "larger than"},
		"no digest":               {func(w *written) { w.manifest.Layers[0].Digest = gibberish }, gibberish},
		"negative size":           {func(w *written) { w.manifest.Layers[0].Size = -1 }, "size -1"},
		"no size":                 {func(w *written) { w.manifest.Layers[0].Size = 0 }, "size 0"},
		"sizes that overflow":     {func(w *written) { w.manifest.Layers[0].Size = 1<<63 - 1 }, "size 9223372036854775807"},
		"lying size of a layer":   {func(w *written) { w.manifest.Layers[0].Size++ }, "its descriptor says"},
		"lying size of a config":  {func(w *written) { w.manifest.Config.Size = 5 }, "its descriptor says"},
		"lying size of a manifest": {func(w *written) {
			w.descriptor.Size = 5
		}, "its descriptor says"},
		"two sizes": {func(w *written) {
			w.manifest.Layers = append(w.manifest.Layers, w.manifest.Layers[0])
			w.manifest.Layers[1].Size++
		}, "two sizes"},
		"missing layer":          {func(w *written) { w.manifest.Layers[0].Digest = zero; w.config.RootFS.DiffIDs[0] = zero }, "lacks the blob " + zero.String()},
		"missing config":         {func(w *written) { w.manifest.Config.Digest = digest.FromString("x") }, "lacks the blob"},
		"missing manifest":       {func(w *written) { w.descriptor.Digest = digest.FromString("x") }, "lacks the blob"},
		"fewer diff ids":         {func(w *written) { w.config.RootFS.DiffIDs = nil }, "names 0 layers"},
		"more diff ids":          {func(w *written) { w.config.RootFS.DiffIDs = append(w.config.RootFS.DiffIDs, zero) }, "names 2 layers"},
		"a diff id that is none": {func(w *written) { w.config.RootFS.DiffIDs[0] = gibberish }, gibberish},
		"other architecture":     {func(w *written) { w.config.Architecture = "arm64" }, "linux/arm64"},
		"other system":           {func(w *written) { w.config.OS = "windows" }, "windows/amd64"},
		"config of an artifact":  {func(w *written) { w.manifest.Config.MediaType = "application/vnd.cncf.helm.config.v1+json" }, "helm"},
		"layer of an artifact":   {func(w *written) { w.manifest.Layers[0].MediaType = "application/vnd.in-toto+json" }, "layer 1"},
		"encrypted layer":        {func(w *written) { w.manifest.Layers[0].MediaType += "+encrypted" }, "+encrypted"},
		"artifact": {func(w *written) {
			w.descriptor.MediaType = "application/vnd.oci.artifact.manifest.v1+json"
			w.manifest.MediaType = w.descriptor.MediaType
		}, "artifact"},
		"schema 1": {func(w *written) {
			w.manifestText = []byte(`{"schemaVersion":1,"fsLayers":[{"blobSum":"` + zero.String() + `"}]}`)
		}, "schema 1"},
		"manifest and index at once": {func(w *written) { w.manifestText = []byte(`{"schemaVersion":2,"layers":[],"manifests":[{}]}`) }, "index too"},
		"index and manifest at once": {func(w *written) {
			w.descriptor.MediaType = ocispec.MediaTypeImageIndex
			w.manifestText = []byte(`{"schemaVersion":2,"layers":[],"manifests":[{}]}`)
		}, "image manifest too"},
		"nested index":            {nested(ocispec.MediaTypeImageIndex), "another index"},
		"index of something else": {nested("text/html"), "text/html"},
		"empty index":             {func(w *written) { nested("")(w); w.manifestText = []byte(`{"manifests":[]}`) }, "no image at all"},
		"index without its image": {nested(ocispec.MediaTypeImageManifest), "lacks the blob"},
		"no JSON":                 {func(w *written) { w.manifestText = []byte("x") }, "manifest"},
		"a name that is none":     {func(w *written) { w.descriptor.Annotations[ocispec.AnnotationRefName] = "../UPPER:1" }, "UPPER"},
		"a name with a digest of another": {func(w *written) {
			w.descriptor.Annotations[ocispec.AnnotationRefName] = "example.com/app@" + zero.String()
		}, zero.String()},
		"no platform anywhere": {func(w *written) {
			w.config.OS, w.config.Architecture = "", ""
			config := mustJSON(t, w.config)
			w.manifest.Config.Digest, w.manifest.Config.Size = digest.FromBytes(config), int64(len(config))
			d, e := blob(mustJSON(t, w.manifest))
			w.extra = append(w.extra, e)
			w.descriptor.MediaType = ocispec.MediaTypeImageIndex
			w.manifestText = mustJSON(t, ocispec.Index{Manifests: []ocispec.Descriptor{{MediaType: ocispec.MediaTypeImageManifest, Digest: d, Size: int64(len(e.content))}}})
		}, "what platform"},
		"two images of one name": {func(w *written) {
			other := w.manifest
			config := mustJSON(t, w.config)
			other.Config.Digest, other.Config.Size = digest.FromBytes(config), int64(len(config))
			other.Annotations = map[string]string{"other": "yes"}
			d, e := blob(mustJSON(t, other))
			w.extra = append(w.extra, e)
			w.manifest.Config = other.Config
			first, _ := blob(mustJSON(t, w.manifest))
			second := w.descriptor
			w.descriptor.Digest, w.descriptor.Size = first, int64(len(mustJSON(t, w.manifest)))
			second.Digest, second.Size = d, int64(len(e.content))
			w.indexText = mustJSON(t, ocispec.Index{Manifests: []ocispec.Descriptor{w.descriptor, second}})
		}, "two images have this name"},
	} {
		t.Run(name, func(t *testing.T) {
			s := newSources(t)
			w := &written{}
			writeFile(t, filepath.Join(s.Dir, "app.tar"), tarOf(t, w.entries(t, test.spoil)...))
			refused(t, s, recipes.ImageSource{Archive: "app.tar"}, test.says)
			// The same as a folder.
			for _, e := range w.entries(t, test.spoil) {
				writeFile(t, filepath.Join(s.Dir, "layout", e.name), e.content)
			}
			refused(t, s, recipes.ImageSource{Layout: "layout"}, test.says)
		})
	}
	s := newSources(t)
	writeFile(t, filepath.Join(s.Dir, "app.tar"), tarOf(t, (&written{}).entries(t, func(*written) {})...))
	mustFetch(t, s, mustResolve(t, s, recipes.ImageSource{Archive: "app.tar"}))
}

// TestHostileArchives has archives that try to leave their place, or are not what they say.
func TestHostileArchives(t *testing.T) {
	good := func() []entry { return (&written{}).entries(t, func(*written) {}) }
	with := func(more ...entry) []byte { return tarOf(t, append(good(), more...)...) }
	link := func(kind byte, name, target string) entry {
		return entry{name: name, header: tar.Header{Typeflag: kind, Linkname: target}}
	}
	saved := func(manifest string, more ...entry) []byte {
		return tarOf(t, append([]entry{{name: "manifest.json", content: []byte(manifest)}}, more...)...)
	}
	whole := with()
	gzipped, zipped := gzipOf(t, whole), zstdOf(t, whole)
	for name, test := range map[string]struct {
		archive []byte
		says    string
	}{
		"parent":                  {with(entry{name: "../index.json", content: []byte("{}")}), `"../index.json" lies outside`},
		"parent in the middle":    {with(entry{name: "blobs/../../etc/passwd", content: []byte("x")}), "lies outside"},
		"absolute":                {with(entry{name: "/etc/passwd", content: []byte("x")}), `"/etc/passwd" lies outside`},
		"parent folder":           {with(entry{name: "../x/", header: tar.Header{Typeflag: tar.TypeDir}}), "lies outside"},
		"symbolic link out":       {with(link(tar.TypeSymlink, "layer.tar", "../../etc/passwd")), "outside the archive"},
		"absolute symbolic link":  {with(link(tar.TypeSymlink, "layer.tar", "/etc/passwd")), `"/etc/passwd", outside the archive`},
		"hard link out":           {with(link(tar.TypeLink, "layer.tar", "../etc/passwd")), "hard link"},
		"other index later":       {with(entry{name: "index.json", content: []byte("{}")}), `"index.json" comes twice`},
		"other index, spelt else": {with(entry{name: "./blobs/../index.json", content: []byte("{}")}), "comes twice"},
		"index and a link":        {with(link(tar.TypeSymlink, "index.json", "oci-layout")), "comes twice"},
		"other blob later":        {with(entry{name: good()[2].name, content: []byte("x")}), "comes twice"},
		"cut in an entry":         {whole[:len(whole)-4096], "is no image archive"},
		"cut in a header":         {whole[:1300], "is no image archive"},
		"cut gzip":                {gzipped[:len(gzipped)-20], "damaged"},
		"cut zstd":                {zipped[:len(zipped)-20], "damaged"},
		"flipped bit in gzip":     {flip(gzipped), "damaged"},
		"gzip of nothing":         {gzipOf(t, nil), "neither an OCI layout nor a docker-archive"},
		"xz that is none":         {append(bytes.Clone(xzMagic), make([]byte, 100)...), "damaged"},
		"bzip2 that is none":      {[]byte("BZh9 and then some text that is no block"), "damaged"},
		"endless names":           {with(entry{name: strings.Repeat("a/", 3000) + "x", content: []byte("x")}), "lies outside"},
		"layer outside":           {saved(`[{"Config":"c.json","RepoTags":["a:1"],"Layers":["../../etc/passwd"]}]`, entry{name: "c.json", content: configOf(t, 1)}), "etc/passwd"},
		"config outside":          {saved(`[{"Config":"/etc/passwd","RepoTags":["a:1"],"Layers":[]}]`), "its config"},
		"link to nowhere":         {saved(`[{"Config":"c.json","RepoTags":["a:1"],"Layers":["l.tar"]}]`, entry{name: "c.json", content: configOf(t, 1)}, link(tar.TypeSymlink, "l.tar", "gone")), "l.tar"},
		"link to itself":          {saved(`[{"Config":"c.json","RepoTags":["a:1"],"Layers":["l.tar"]}]`, entry{name: "c.json", content: configOf(t, 1)}, link(tar.TypeSymlink, "l.tar", "l.tar")), "l.tar"},
		"layers missing":          {saved(`[{"Config":"c.json","RepoTags":["a:1"],"Layers":[]}]`, entry{name: "c.json", content: configOf(t, 1)}), "names 1 layers"},
		"too many layers": {saved(`[{"Config":"c.json","RepoTags":["a:1"],"Layers":["l"`+strings.Repeat(`,"l"`, 600)+`]}]`, entry{name: "c.json", content: configOf(t, 601)}, entry{name: "l"}),
			"601 layers"},
		"lying diff id":    {saved(`[{"Config":"c.json","RepoTags":["a:1"],"Layers":["l"]}]`, entry{name: "c.json", content: configOf(t, 1)}, entry{name: "l", content: []byte("other")}), "damaged"},
		"bomb of images":   {saved(`[` + strings.Repeat("{},", 1<<20) + `{}]`), "values"},
		"no list":          {saved(`{}`), "manifest.json"},
		"bad name":         {saved(`[{"Config":"c.json","RepoTags":["../a"],"Layers":[]}]`), "../a"},
		"name twice":       {saved(`[{"Config":"c","RepoTags":["a:1"],"Layers":[]},{"Config":"d","RepoTags":["a:1"],"Layers":[]}]`, entry{name: "c", content: configOf(t, 0)}, entry{name: "d", content: append(configOf(t, 0), ' ')}), "two images have this name"},
		"other platform":   {saved(`[{"Config":"c","RepoTags":["a:1"],"Layers":[]}]`, entry{name: "c", content: bytes.Replace(configOf(t, 0), []byte("amd64"), []byte("s390x"), 1)}), "linux/s390x"},
		"too many entries": {manyEntries(t), "entries"},
	} {
		t.Run(name, func(t *testing.T) {
			s := newSources(t)
			writeFile(t, filepath.Join(s.Dir, "app.tar"), test.archive)
			refused(t, s, recipes.ImageSource{Archive: "app.tar"}, test.says)
			// Compressed, it has to be unpacked to be known.
			writeFile(t, filepath.Join(s.Dir, "app.tar.gz"), gzipOf(t, test.archive))
			if len(test.archive) < 1<<20 && !strings.Contains(test.says, "damaged") && !strings.Contains(test.says, "neither") {
				refused(t, s, recipes.ImageSource{Archive: "app.tar.gz"}, test.says)
			}
		})
	}
	// The same file twice is no reason to refuse.
	s := newSources(t)
	writeFile(t, filepath.Join(s.Dir, "app.tar"), with(good()...))
	mustFetch(t, s, mustResolve(t, s, recipes.ImageSource{Archive: "app.tar"}))
}

func manyEntries(t *testing.T) []byte {
	t.Helper()
	one := tarOf(t, entry{name: "same"})[:512]
	return append(bytes.Repeat(one, maxEntries+1), make([]byte, 1024)...)
}

// TestBombs has a few kilobytes that expand to more than a disk should get from them.
func TestBombs(t *testing.T) {
	s := newSources(t)
	before := expandsTo
	t.Cleanup(func() { expandsTo = before })
	expandsTo = 8 << 20
	size := expandsTo + 1<<20
	for name, program := range map[string]string{
		"bomb.gz": "gzip -9", "bomb.zst": "zstd -q", "bomb.xz": "xz -0", "bomb.bz2": "bzip2 -1",
	} {
		file := filepath.Join(s.Dir, name)
		shell := exec.CommandContext(t.Context(), "sh", "-c", fmt.Sprintf("head -c %d /dev/zero | %s > %s", size, program, file))
		if out, err := shell.CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		refused(t, s, recipes.ImageSource{Archive: name}, "expands to more than")
	}
	// A window that would take gigabytes of memory.
	var wide bytes.Buffer
	wide.Write(zstdMagic)
	wide.Write([]byte{0x00, 0xa8, 0x01, 0x00, 0x00})
	writeFile(t, filepath.Join(s.Dir, "wide.zst"), wide.Bytes())
	refused(t, s, recipes.ImageSource{Archive: "wide.zst"}, "damaged")
	shell := exec.CommandContext(t.Context(), "sh", "-c", fmt.Sprintf("echo x | xz --lzma2=dict=1GiB > %s/wide.xz", s.Dir))
	if out, err := shell.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	refused(t, s, recipes.ImageSource{Archive: "wide.xz"}, "dictionary")
}

// TestSparseArchive has what GNU tar makes of files with holes, in both of its formats: their content lies elsewhere than it seems.
func TestSparseArchive(t *testing.T) {
	for _, format := range []string{"gnu", "pax"} {
		s := newSources(t)
		dir := filepath.Join(s.Dir, "layout")
		writeLayout(t, dir, map[string]any{"example.com/app:1": newOCIImage(t, "amd64", 1, 100)})
		if err := os.Truncate(mustMake(t, dir, "index.json"), 1<<20); err != nil {
			t.Fatal(err)
		}
		pack := exec.CommandContext(t.Context(), "tar", "-C", dir, "--sparse", "--format", format, "-cf", filepath.Join(s.Dir, "app.tar"), ".")
		if out, err := pack.CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		refused(t, s, recipes.ImageSource{Archive: "app.tar"}, "index.json", "sparse")
	}
}

// TestLayoutOfOddFiles has a layout in which a pipe and a device stand where files should.
func TestLayoutOfOddFiles(t *testing.T) {
	s := newSources(t)
	entries := (&written{}).entries(t, func(*written) {})
	for _, odd := range []string{"index.json", entries[2].name, entries[4].name} {
		for what, target := range map[string]string{"pipe": "", "device": "/dev/zero"} {
			dir := filepath.Join(s.Dir, what, digest.FromString(odd).Encoded())
			for _, e := range entries {
				if e.name != odd {
					writeFile(t, filepath.Join(dir, e.name), e.content)
				}
			}
			command := exec.CommandContext(t.Context(), "mkfifo", mustMake(t, dir, odd))
			if target != "" {
				command = exec.CommandContext(t.Context(), "ln", "-s", target, mustMake(t, dir, odd))
			}
			if out, err := command.CombinedOutput(); err != nil {
				t.Fatalf("%v: %s", err, out)
			}
			refused(t, s, recipes.ImageSource{Layout: dir}, "not a regular file")
		}
	}
	if out, err := exec.CommandContext(t.Context(), "mkfifo", filepath.Join(s.Dir, "pipe.tar")).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	refused(t, s, recipes.ImageSource{Archive: "pipe.tar"}, "is no file")
}
