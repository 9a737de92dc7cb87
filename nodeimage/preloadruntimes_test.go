package nodeimage

import (
	"archive/tar"
	"bytes"
	"errors"
	"io"
	"path"
	"slices"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"

	"github.com/nodeimg/nodeimg/recipes"
)

// topFiles returns the files and links of the image's topmost layer below the folder.
func topFiles(t *testing.T, img v1.Image, folder string) map[string]string {
	t.Helper()
	layers, err := img.Layers()
	if err != nil {
		t.Fatal(err)
	}
	stream, err := layers[len(layers)-1].Uncompressed()
	if err != nil {
		t.Fatal(err)
	}
	defer stream.Close()
	files := map[string]string{}
	for r := tar.NewReader(stream); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return files
		}
		if err != nil {
			t.Fatal(err)
		}
		content, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		if name, ok := strings.CutPrefix(path.Clean("/"+h.Name), folder+"/"); ok && h.Typeflag != tar.TypeDir {
			files[name] = string(content) + h.Linkname
		}
	}
}

// unfitImage is appImage with a layer that cannot lie unpacked in a node image.
func unfitImage(t *testing.T) v1.Image {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeLink, Name: "link", Linkname: "nothing"}); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	layer, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(b.Bytes())), nil })
	if err != nil {
		t.Fatal(err)
	}
	img, err := mutate.AppendLayers(appImage(t, 1000, 9), layer)
	if err != nil {
		t.Fatal(err)
	}
	return img
}

// TestPreloadOtherRuntimes changes nodes whose runtime is not containerd by itself.
func TestPreloadOtherRuntimes(t *testing.T) {
	for _, test := range []struct {
		cri recipes.CRI
		// holds and lacks are folders in which the runtime looks for images, and those of others; file knows their names.
		holds, lacks, file string
		// unfit says what becomes of an image that cannot be unpacked.
		unfit string
	}{
		{recipes.CRI{Name: recipes.CRIDocker, Version: "28.5.2"}, recipes.DatabasesPath, recipes.AdditionalStorePath, "meta.db", ""},
		{recipes.CRI{Name: recipes.CRICRIO, Version: "1.36.3"}, recipes.AdditionalStorePath, recipes.DatabasesPath, "overlay-images/images.json", "it cannot be unpacked faithfully"},
	} {
		t.Run(string(test.cri.Name), func(t *testing.T) {
			r := newRegistry(t)
			pause, app := r.push(t, "pause:3", appImage(t, 1000, 2)), r.push(t, "app:1", appImage(t, 12<<20, 4))
			node := r.push(t, "node:1", testNodeWith(t, newCache(t), test.cri, pause))
			built := r.push(t, "node:built", testNodeWith(t, newCache(t), test.cri, pause, app))
			run := func(target, tag string, layout recipes.Layout, add []recipes.ImageSource, remove ...string) (*Result, error) {
				return Preload(t.Context(), target, PreloadOptions{
					Options: Options{Cache: newCache(t), Push: true, Tags: []string{r.host + "/" + tag}}, Layout: layout, Add: add, Remove: remove,
				})
			}
			if _, err := run(node, "node:added", "", []recipes.ImageSource{{Registry: app}}); err != nil {
				t.Fatal(err)
			}
			checkNode(t, r, r.host+"/node:added", app, pause)
			added := topFiles(t, r.pull(t, r.host+"/node:added"), test.holds)
			if !strings.Contains(added[test.file], app) || !strings.Contains(added[test.file], pause) {
				t.Errorf("%s of the changed node does not name its images", test.file)
			}
			// The runtime finds the same as if the image had been built with both.
			want := topFiles(t, r.pull(t, built), test.holds)
			for name, content := range want {
				if added[name] != content {
					t.Errorf("%s differs from that of a node that was built with the image", name)
				}
			}
			if len(added) != len(want) || len(want) < 3 {
				t.Errorf("the changed node has %d files of the runtime, a built one %d", len(added), len(want))
			}
			if others := topFiles(t, r.pull(t, r.host+"/node:added"), test.lacks); len(others) != 0 {
				t.Errorf("the changed node has files for another runtime too: %d in %s", len(others), test.lacks)
			}
			removed, err := run(r.host+"/node:added", "node:removed", "", nil, app)
			if err != nil {
				t.Fatal(err)
			}
			if hash, err := r.pull(t, node).Digest(); err != nil || removed.Digest != hash {
				t.Errorf("after adding and removing, the image is %s, before it was %s (%v)", removed.Digest, hash, err)
			}

			unfit := r.push(t, "unfit:1", unfitImage(t))
			_, err = run(node, "node:unfit", "", []recipes.ImageSource{{Registry: unfit}})
			checkRefusal(t, err, test.unfit, unfit)
			refusal := ""
			if test.unfit != "" {
				refusal = "--layout packed"
			}
			_, err = run(node, "node:packed", recipes.LayoutPacked, []recipes.ImageSource{{Registry: app}})
			checkRefusal(t, err, refusal, "CRI-O")
		})
	}
}

// checkRefusal fails the test unless err is nil, where no text is wanted, or else an input error with the texts.
func checkRefusal(t *testing.T, err error, texts ...string) {
	t.Helper()
	var input *recipes.InputError
	switch {
	case texts[0] == "":
		if err != nil {
			t.Error(err)
		}
	case !errors.As(err, &input) || slices.ContainsFunc(texts, func(text string) bool { return !strings.Contains(err.Error(), text) }):
		t.Errorf("the error is %v, want an input error with %q", err, texts)
	}
}
