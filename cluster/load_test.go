package cluster

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"iter"
	"strings"
	"testing"

	"github.com/containerd/containerd/v2/core/images"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/nodeimg/nodeimg/internal/cache"
	"github.com/nodeimg/nodeimg/internal/dockerengine"
	"github.com/nodeimg/nodeimg/internal/progress"
	"github.com/nodeimg/nodeimg/preload"
	"github.com/nodeimg/nodeimg/recipes"
)

// described is the descriptor of a blob.
func described(content string) ocispec.Descriptor {
	return ocispec.Descriptor{MediaType: "application/octet-stream", Digest: digest.FromString(content), Size: int64(len(content))}
}

// TestNames holds which names an image gets in a node: the reference, and its digests where the runtime does not find them by itself.
func TestNames(t *testing.T) {
	index, manifest := described("index"), described("manifest")
	single := imageContent{LockedImage: recipes.LockedImage{Reference: "docker.io/example/app:v1"}, parts: preload.Parts{Target: manifest, Manifest: manifest}}
	many := imageContent{LockedImage: recipes.LockedImage{Reference: "host:5000/app:v1"}, parts: preload.Parts{Target: index, Manifest: manifest}}
	for _, test := range []struct {
		name  string
		cri   recipes.CRIName
		image imageContent
		want  []string
	}{
		{"containerd", recipes.CRIContainerd, single, []string{"docker.io/example/app:v1 manifest", "docker.io/example/app@manifest manifest"}},
		{"containerd, index", recipes.CRIContainerd, many, []string{"host:5000/app:v1 index", "host:5000/app@index index", "host:5000/app@manifest manifest"}},
		{"docker", recipes.CRIDocker, single, []string{"docker.io/example/app:v1 manifest"}},
		{"docker, index", recipes.CRIDocker, many, []string{"host:5000/app:v1 index", "host:5000/app@manifest manifest"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			got, err := stores[test.cri].index([]imageContent{test.image})
			if err != nil {
				t.Fatal(err)
			}
			var names []string
			for _, d := range got.Manifests {
				names = append(names, d.Annotations[images.AnnotationImageName]+" "+d.Digest.String())
			}
			text := strings.NewReplacer(index.Digest.String(), "index", manifest.Digest.String(), "manifest").Replace(strings.Join(names, "\n"))
			if want := strings.Join(test.want, "\n"); text != want {
				t.Errorf("names\n%s\nwant\n%s", text, want)
			}
		})
	}
}

// TestHeld reads what ctr of containerd 2.4.2 prints.
func TestHeld(t *testing.T) {
	a, b := digest.FromString("a"), digest.FromString("b")
	h := parseHeld(a.String()+"\n"+b.String()+"\n", fmt.Sprintf(`REF                TYPE                                       DIGEST STATUS           SIZE            UNPACKED
docker.io/a:v1     application/vnd.oci.image.manifest.v1+json %s complete (3/3)   1.2 KiB/1.2 KiB false
docker.io/b:v1     application/vnd.oci.image.manifest.v1+json %s incomplete (1/3) 1.2 KiB/9.2 KiB false
`, a, b))
	entry := func(name string, d digest.Digest) ocispec.Descriptor {
		return ocispec.Descriptor{Digest: d, Annotations: map[string]string{images.AnnotationImageName: name}}
	}
	for _, test := range []struct {
		name    string
		entries []ocispec.Descriptor
		lacking string
	}{
		{"there", []ocispec.Descriptor{entry("docker.io/a:v1", a)}, ""},
		{"other image of the name", []ocispec.Descriptor{entry("docker.io/a:v1", b)}, "docker.io/a:v1"},
		{"incomplete", []ocispec.Descriptor{entry("docker.io/a:v1", a), entry("docker.io/b:v1", b)}, "docker.io/b:v1"},
		{"unknown", []ocispec.Descriptor{entry("docker.io/c:v1", a)}, "docker.io/c:v1"},
	} {
		t.Run(test.name, func(t *testing.T) {
			if lacking, ok := h.has(ocispec.Index{Manifests: test.entries}); lacking != test.lacking || ok != (test.lacking == "") {
				t.Errorf("lacking %q, %v; want %q", lacking, ok, test.lacking)
			}
		})
	}
	if len(h.blobs) != 2 || !h.blobs[a] || !h.blobs[b] {
		t.Errorf("blobs %v", h.blobs)
	}
}

// TestMissing holds that a blob of two images is counted once.
func TestMissing(t *testing.T) {
	base, one, two := described("base"), described("one"), described("twotwo")
	list := []imageContent{{blobs: []ocispec.Descriptor{base, one}}, {blobs: []ocispec.Descriptor{base, two}}}
	lacking, present := missing(list, map[digest.Digest]bool{two.Digest: true})
	if len(lacking) != 2 || lacking[0].Digest != base.Digest || lacking[1].Digest != one.Digest || present != two.Size {
		t.Errorf("lacking %v, %d bytes there", lacking, present)
	}
}

// TestWriteLayout holds that what names the images ends the stream, so that a stream cut short names none.
func TestWriteLayout(t *testing.T) {
	c, err := cache.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.PutBytes([]byte("layer")); err != nil {
		t.Fatal(err)
	}
	layer := described("layer")
	var out bytes.Buffer
	if err := writeLayout(&out, c, []ocispec.Descriptor{layer}, []byte("{}"), progress.Start(t.Context(), "[test] layout")); err != nil {
		t.Fatal(err)
	}
	var got []string
	for header, content := range entries(t, &out) {
		got = append(got, header.Name+" "+content)
	}
	want := "blobs/sha256/" + layer.Digest.Encoded() + " layer|index.json {}|oci-layout " + preload.LayoutFile
	if text := strings.Join(got, "|"); text != want {
		t.Errorf("entries %s\nwant %s", text, want)
	}
	// A blob that is shorter than promised breaks the stream.
	layer.Size++
	if err := writeLayout(io.Discard, c, []ocispec.Descriptor{layer}, []byte("{}"), progress.Start(t.Context(), "[test] layout")); err == nil {
		t.Error("a blob of the wrong size was sent")
	}
}

// entries are those of a tar, with their contents.
func entries(t *testing.T, archive io.Reader) iter.Seq2[*tar.Header, string] {
	t.Helper()
	return func(yield func(*tar.Header, string) bool) {
		for in := tar.NewReader(archive); ; {
			header, err := in.Next()
			if errors.Is(err, io.EOF) {
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			content, err := io.ReadAll(in)
			if err != nil {
				t.Fatal(err)
			}
			if !yield(header, string(content)) {
				return
			}
		}
	}
}

func TestCheckLoadable(t *testing.T) {
	node := func(name, state, cri string) Node {
		return Node{dockerengine.Container{Name: name, State: state, Image: "img", Labels: map[string]string{recipes.LabelCRI: cri, LabelCluster: "some"}}}
	}
	for _, test := range []struct {
		name  string
		nodes []Node
		words []string
		input bool
	}{
		{name: "running", nodes: []Node{node("a", "running", "containerd 2.4.2"), node("b", "running", "docker 28.5.2"), node("c", "running", "crio 1.36.3")}},
		{name: "stopped", nodes: []Node{node("a", "exited", "containerd 2.4.2"), node("b", "running", "containerd 2.4.2"), node("c", "paused", "containerd 2.4.2")},
			words: []string{"a (exited), c (paused)", "nodeimg start --name some"}},
		{name: "other", nodes: []Node{node("a", "running", "other 1.0")}, words: []string{`"other"`, "nodeimg preload docker:img"}, input: true},
	} {
		t.Run(test.name, func(t *testing.T) {
			err := checkLoadable(test.nodes)
			if (err == nil) != (len(test.words) == 0) {
				t.Fatal(err)
			}
			for _, words := range test.words {
				if !strings.Contains(err.Error(), words) {
					t.Errorf("no %q in %v", words, err)
				}
			}
			if input := new(recipes.InputError); errors.As(err, &input) != test.input {
				t.Errorf("input error: %v", !test.input)
			}
		})
	}
}
