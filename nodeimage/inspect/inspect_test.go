package inspect

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/nodeimg/nodeimg/builder/publish"
	"github.com/nodeimg/nodeimg/internal/cache"
	"github.com/nodeimg/nodeimg/recipes"
)

var created = time.Date(2025, time.January, 1, 0, 0, 0, 0, time.UTC)

// instructions are what BuildKit and nodeimage write into the history of a node image, and what that means.
var instructions = []struct{ createdBy, holds string }{
	{"# debian.sh --arch 'amd64' out/ 'bookworm' '@1735689600'", "base: debian 12"},
	{"RUN /run/nodeimg/install-packages.sh # buildkit", "distribution packages"},
	{"COPY --chmod=0755 / / # buildkit", "Kubernetes, container runtime and network programs"},
	{"COPY / / # buildkit", "units, configuration and scripts of the node"},
	{"COPY files /etc/motd # buildkit", "files in /etc/motd"},
	{"RUN /bin/sh -c echo   hello >/etc/hello # buildkit", "result of echo hello >/etc/hello"},
	{"RUN /run/nodeimg/setup.sh # buildkit", "accounts, enabled units and links of the node"},
	{"COPY /out/ /usr/lib/nodeimg/store/ # buildkit", "image docker.io/library/nginx:1.29"},
	{"COPY /out/ /usr/lib/nodeimg/store/ # buildkit", "image registry.k8s.io/pause:3.10.1"},
	{"nodeimg: preload docker.io/library/redis:8", "image docker.io/library/redis:8"},
	{"nodeimg: preload docker.io/library/a:1, docker.io/library/b:2", "images docker.io/library/a:1, docker.io/library/b:2"},
	{"nodeimg: index of the preloaded images and containerd's databases", "index of the preloaded images and containerd's databases"},
}

func nodeImage(t *testing.T, arch string) v1.Image {
	t.Helper()
	preloaded, err := json.Marshal([]recipes.Preloaded{
		{Reference: "docker.io/library/nginx:1.29", Digest: "sha256:" + strings.Repeat("1", 64), Size: 72_000_000, Platform: "linux/" + arch},
		{Reference: "registry.k8s.io/pause:3.10.1", Digest: "sha256:" + strings.Repeat("2", 64), Size: 320_000, Platform: "linux/" + arch},
	})
	if err != nil {
		t.Fatal(err)
	}
	base := mutate.ConfigMediaType(mutate.MediaType(empty.Image, types.OCIManifestSchema1), types.OCIConfigJSON)
	img, err := mutate.ConfigFile(base, &v1.ConfigFile{
		Architecture: arch, OS: "linux", Created: v1.Time{Time: created}, RootFS: v1.RootFS{Type: "layers"},
		Config: v1.Config{Labels: map[string]string{
			recipes.LabelRecipe: "sha256:abcd", recipes.LabelName: "k8s-node", recipes.LabelKubernetes: "v1.34.10", recipes.LabelDistro: "debian 12",
			recipes.LabelCRI: "containerd 2.4.2", recipes.LabelCNI: "flannel", recipes.LabelPreloaded: string(preloaded), "maintainer": "us",
		}},
	})
	if err != nil {
		t.Fatal(err)
	}
	for n, i := range instructions {
		layer := static.NewLayer(fmt.Appendf(nil, "layer %d", n), types.OCIUncompressedLayer)
		if img, err = mutate.Append(img,
			mutate.Addendum{History: v1.History{CreatedBy: "ENV a=b", EmptyLayer: true}},
			mutate.Addendum{Layer: layer, History: v1.History{CreatedBy: i.createdBy}},
		); err != nil {
			t.Fatal(err)
		}
	}
	return img
}

func hashOf(t *testing.T, img v1.Image) string {
	t.Helper()
	hash, err := img.Digest()
	if err != nil {
		t.Fatal(err)
	}
	return hash.String()
}

func TestImage(t *testing.T) {
	img := nodeImage(t, "amd64")
	r, err := Image(img, "out/k8s-node")
	if err != nil {
		t.Fatal(err)
	}
	if r.Digest != hashOf(t, img) || r.Platform != "linux/amd64" || !r.Created.Equal(created) || r.Name != "k8s-node" || r.Recipe != "sha256:abcd" ||
		r.Kubernetes != "v1.34.10" || r.Distro != (Component{"debian", "12"}) || r.CRI != (Component{"containerd", "2.4.2"}) || r.CNI != "flannel" {
		t.Errorf("report %+v", r)
	}
	var size int64
	manifest, err := img.Manifest()
	if err != nil {
		t.Fatal(err)
	}
	raw, err := img.RawManifest()
	if err != nil {
		t.Fatal(err)
	}
	size = int64(len(raw)) + manifest.Config.Size
	for i, layer := range r.Layers {
		size += manifest.Layers[i].Size
		if layer.Holds != instructions[i].holds || layer.Digest != manifest.Layers[i].Digest.String() {
			t.Errorf("layer %d holds %q, want %q", i, layer.Holds, instructions[i].holds)
		}
		if strings.Contains(layer.CreatedBy, "buildkit") {
			t.Errorf("layer %d was created by %q", i, layer.CreatedBy)
		}
	}
	if r.Size != size {
		t.Errorf("size %d, want %d", r.Size, size)
	}
	if len(r.Preloaded) != 2 || r.Preloaded[1].Reference != "registry.k8s.io/pause:3.10.1" || r.Labels["maintainer"] != "us" || r.Labels[recipes.LabelPreloaded] != "" {
		t.Errorf("preloaded %+v, labels %v", r.Preloaded, r.Labels)
	}
}

func TestWriteText(t *testing.T) {
	r, err := Image(nodeImage(t, "amd64"), "out/k8s-node")
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	if err := r.WriteText(&b); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"Kubernetes:    v1.34.10\n", "CRI:           containerd 2.4.2\n", "PRELOADED IMAGE (2)", "docker.io/library/nginx:1.29  72.0 MB   sha256:111111111111\n", fmt.Sprintf("LAYER (%d)", len(instructions)),
	} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("%q is missing in\n%s", want, &b)
		}
	}
}

func TestChangedSinceTheBuild(t *testing.T) {
	img := nodeImage(t, "amd64")
	config, err := img.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	before, after := "sha256:"+strings.Repeat("3", 64), "sha256:"+strings.Repeat("1", 64)
	config.Config.Labels[recipes.LabelChanged] = fmt.Sprintf(`[{"reference":"docker.io/library/nginx:1.29","before":%q,"after":%q},{"reference":"docker.io/library/old:1","before":%q}]`, before, after, before)
	if img, err = mutate.ConfigFile(img, config); err != nil {
		t.Fatal(err)
	}
	r, err := Image(img, "out/k8s-node")
	if err != nil {
		t.Fatal(err)
	}
	if want := []recipes.Changed{{Reference: "docker.io/library/nginx:1.29", Before: before, After: after}, {Reference: "docker.io/library/old:1", Before: before}}; !slices.Equal(r.Changed, want) {
		t.Errorf("changed: %+v", r.Changed)
	}
	var b bytes.Buffer
	if err := r.WriteText(&b); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"CHANGED SINCE THE BUILD (2)", "docker.io/library/nginx:1.29  sha256:333333333333  sha256:111111111111\n", "docker.io/library/old:1       sha256:333333333333  removed\n"} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("%q is missing in\n%s", want, &b)
		}
	}
}

func TestWriteJSON(t *testing.T) {
	r, err := Image(nodeImage(t, "amd64"), "out/k8s-node")
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	if err := r.WriteJSON(&b); err != nil {
		t.Fatal(err)
	}
	var got struct {
		Kubernetes string
		CRI        struct{ Name, Version string }
		Preloaded  []map[string]any
	}
	if err := json.Unmarshal(b.Bytes(), &got); err != nil {
		t.Fatal(err)
	}
	if got.Kubernetes != "v1.34.10" || got.CRI.Version != "2.4.2" || len(got.Preloaded) != 2 {
		t.Errorf("got %s", &b)
	}
	for _, key := range []string{"reference", "digest", "size", "platform"} {
		if got.Preloaded[0][key] == nil {
			t.Errorf("a preloaded image has no %s: %s", key, &b)
		}
	}
}

func inspectTarget(t *testing.T, target string, o Options) (*Report, error) {
	t.Helper()
	img, closer, err := Open(t.Context(), target, o)
	if err != nil {
		return nil, err
	}
	defer closer.Close()
	return Image(img, target)
}

func TestOpen(t *testing.T) {
	img := nodeImage(t, "amd64")
	dir := t.TempDir()
	c, err := cache.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(registry.New(registry.Logger(log.New(io.Discard, "", 0))))
	defer server.Close()
	host := strings.TrimPrefix(server.URL, "http://")
	if _, err := publish.Push(t.Context(), img, publish.PushOptions{References: []string{host + "/node:v1"}}); err != nil {
		t.Fatal(err)
	}
	at := func(name string) string { return filepath.Join(dir, name) }
	for _, err := range []error{
		publish.WriteLayout(t.Context(), at("layout"), img, []string{"node:v1", "node:v2"}),
		publish.WriteArchive(t.Context(), at("oci.tar"), img, nil),
		publish.WriteDockerArchive(t.Context(), at("docker.tar"), img, []string{"node:v1"}),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	content, err := os.ReadFile(at("oci.tar"))
	if err != nil {
		t.Fatal(err)
	}
	var zipped bytes.Buffer
	w := gzip.NewWriter(&zipped)
	if _, err := w.Write(content); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(at("oci.tar.gz"), zipped.Bytes(), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, target := range []string{
		at("layout"), at("layout") + "@" + hashOf(t, img), at("oci.tar"), at("oci.tar.gz"), at("docker.tar"), host + "/node:v1", host + "/node@" + hashOf(t, img),
	} {
		t.Run(strings.TrimPrefix(target, dir), func(t *testing.T) {
			r, err := inspectTarget(t, target, Options{Cache: c, Platform: "linux/amd64"})
			if err != nil {
				t.Fatal(err)
			}
			checkLayers(t, target, Options{Cache: c})
			// A docker-archive has no manifest of its own, but layers here are uncompressed, so that it is the same.
			if r.Digest != hashOf(t, img) || r.Reference != target || len(r.Layers) != len(instructions) {
				t.Errorf("report %+v", r)
			}
		})
	}
}

// checkLayers reads all layers where they lie.
func checkLayers(t *testing.T, target string, o Options) {
	t.Helper()
	o.NoGuess = true
	opened, closer, err := Open(t.Context(), target, o)
	if err != nil {
		t.Fatal(err)
	}
	defer closer.Close()
	layers, err := opened.Layers()
	if err != nil {
		t.Fatal(err)
	}
	for i, layer := range layers {
		r, err := layer.Compressed()
		if err != nil {
			t.Fatal(err)
		}
		content, err := io.ReadAll(r)
		if want := fmt.Sprintf("layer %d", i); err != nil || string(content) != want {
			t.Errorf("layer %d of %s reads %q, %v; want %q", i, target, content, err, want)
		}
		if err := r.Close(); err != nil {
			t.Error(err)
		}
	}
}

func TestDamagedLayer(t *testing.T) {
	img, dir := nodeImage(t, "amd64"), t.TempDir()
	if err := publish.WriteLayout(t.Context(), dir, img, nil); err != nil {
		t.Fatal(err)
	}
	manifest, err := img.Manifest()
	if err != nil {
		t.Fatal(err)
	}
	layer := manifest.Layers[0].Digest
	if err := os.WriteFile(filepath.Join(dir, "blobs", "sha256", layer.Hex), []byte("other 0"), 0o644); err != nil {
		t.Fatal(err)
	}
	opened, _, err := Open(t.Context(), dir, Options{})
	if err != nil {
		t.Fatal(err)
	}
	damaged, err := opened.LayerByDigest(layer)
	if err != nil {
		t.Fatal(err)
	}
	r, err := damaged.Compressed()
	if err != nil {
		t.Fatal(err)
	}
	var wrong *cache.DigestError
	if _, err := io.Copy(io.Discard, r); !errors.As(err, &wrong) || wrong.Want.Encoded() != layer.Hex {
		t.Errorf("reading a damaged layer: %v", err)
	}
}

func TestOpenChoosesThePlatform(t *testing.T) {
	amd, arm := nodeImage(t, "amd64"), nodeImage(t, "arm64")
	attestation, err := random.Image(10, 1)
	if err != nil {
		t.Fatal(err)
	}
	platform := func(os, arch string) v1.Descriptor {
		return v1.Descriptor{Platform: &v1.Platform{OS: os, Architecture: arch}}
	}
	index := mutate.AppendManifests(empty.Index,
		mutate.IndexAddendum{Add: amd, Descriptor: platform("linux", "amd64")}, mutate.IndexAddendum{Add: arm, Descriptor: platform("linux", "arm64")},
		mutate.IndexAddendum{Add: attestation, Descriptor: platform("unknown", "unknown")},
	)
	dir := t.TempDir()
	path, err := layout.Write(dir, empty.Index)
	if err != nil {
		t.Fatal(err)
	}
	if err := path.AppendIndex(index); err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(registry.New(registry.Logger(log.New(io.Discard, "", 0))))
	defer server.Close()
	ref, err := name.ParseReference(strings.TrimPrefix(server.URL, "http://") + "/node:v1")
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.WriteIndex(ref, index); err != nil {
		t.Fatal(err)
	}
	for _, target := range []string{dir, ref.String()} {
		_, err := inspectTarget(t, target, Options{NoGuess: true})
		var input *recipes.InputError
		if !errors.As(err, &input) || !strings.Contains(err.Error(), "linux/amd64, linux/arm64") || !strings.Contains(err.Error(), "--platform") {
			t.Errorf("two platforms and no choice in %s: %v", target, err)
		}
		r, err := inspectTarget(t, target, Options{NoGuess: true, Platform: "linux/arm64"})
		if err != nil || r.Digest != hashOf(t, arm) {
			t.Errorf("choosing in %s: %v, %v", target, r, err)
		}
	}
	for target, want := range map[string]string{dir: hashOf(t, arm), dir + "@" + hashOf(t, amd): hashOf(t, amd)} {
		r, err := inspectTarget(t, target, Options{Platform: "linux/arm64"})
		if err != nil || r.Digest != want {
			t.Errorf("%s: got %+v, %v", target, r, err)
		}
	}
	_, err = inspectTarget(t, dir, Options{Platform: "linux/s390x"})
	wantInputError(t, err, "none for linux/s390x")
}

func wantInputError(t *testing.T, err error, text string) {
	t.Helper()
	var input *recipes.InputError
	if !errors.As(err, &input) || !strings.Contains(err.Error(), text) {
		t.Fatalf("want an input error with %q, got %v", text, err)
	}
}

func TestBadTargets(t *testing.T) {
	dir := t.TempDir()
	c, err := cache.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	at := func(name string) string { return filepath.Join(dir, name) }
	other, err := random.Image(100, 1)
	if err != nil {
		t.Fatal(err)
	}
	node := nodeImage(t, "amd64")
	for _, err := range []error{
		publish.WriteLayout(t.Context(), at("other"), other, nil), publish.WriteLayout(t.Context(), at("damaged"), node, nil),
		publish.WriteLayout(t.Context(), at("node"), node, nil), os.Mkdir(at("empty"), 0o755),
		os.WriteFile(at("text"), []byte("no archive, but longer than the block of a tar"+strings.Repeat("x", 600)), 0o644),
		os.WriteFile(at("damaged/blobs/sha256")+"/"+strings.TrimPrefix(hashOf(t, node), "sha256:"), []byte("{}"), 0o644),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	for target, text := range map[string]string{
		at("other"):                         "is not a node image",
		at("damaged"):                       "is damaged",
		at("node") + "@" + hashOf(t, other): "holds another image",
		at("empty"):                         "neither an OCI layout nor a docker-archive",
		at("text"):                          "is no image archive",
		at("missing"):                       "there is no file or folder",
		"./missing":                         "there is no file or folder",
		"node.tar":                          "there is no file or folder",
		"":                                  "there is no file or folder",
		"NOT A NAME":                        "is no image reference",
	} {
		t.Run(strings.TrimPrefix(target, dir), func(t *testing.T) {
			_, err := inspectTarget(t, target, Options{Cache: c})
			wantInputError(t, err, text)
		})
	}
}

func TestRegistryFailures(t *testing.T) {
	for code, advice := range map[int]string{
		http.StatusUnauthorized: "docker login", http.StatusForbidden: "docker login", http.StatusNotFound: "does not have it", http.StatusTooManyRequests: "limits requests",
		http.StatusInternalServerError: "500",
	} {
		t.Run(http.StatusText(code), func(t *testing.T) {
			// The registry client waits between its attempts.
			t.Parallel()
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if strings.HasSuffix(r.URL.Path, "/v2/") {
					return
				}
				w.WriteHeader(code)
			}))
			defer server.Close()
			target := strings.TrimPrefix(server.URL, "http://") + "/node:v1"
			_, _, err := Open(t.Context(), target, Options{Keychain: authn.NewMultiKeychain()})
			var input *recipes.InputError
			if err == nil || errors.As(err, &input) || !strings.Contains(err.Error(), advice) || !strings.Contains(err.Error(), target) {
				t.Errorf("got %v", err)
			}
		})
	}
}
