package publish

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/google/go-containerregistry/pkg/v1/validate"
	"github.com/moby/buildkit/client"

	"github.com/nodeimg/nodeimg/internal/progress"
	"github.com/nodeimg/nodeimg/recipes"
)

// childVariable makes the test binary write a layout (its value is the folder) and nothing else, so that a test can kill it.
const childVariable = "NODEIMG_TEST_WRITE_LAYOUT"

func TestMain(m *testing.M) {
	dir := os.Getenv(childVariable)
	if dir == "" {
		os.Exit(m.Run())
	}
	if err := WriteLayout(context.Background(), dir, endlessImage(), nil); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// endlessImage has a layer that never ends.
func endlessImage() v1.Image {
	layer := &endlessLayer{Layer: static.NewLayer([]byte("x"), types.OCIUncompressedLayer)}
	img, err := mutate.AppendLayers(empty.Image, layer)
	if err != nil {
		panic(err)
	}
	return img
}

type endlessLayer struct{ v1.Layer }

func (endlessLayer) Compressed() (io.ReadCloser, error) { return io.NopCloser(slowZeros{}), nil }

type slowZeros struct{}

func (slowZeros) Read(p []byte) (int, error) {
	time.Sleep(time.Millisecond)
	return min(len(p), 4096), nil
}

// tarLayer returns an uncompressed layer with one compressible file.
func tarLayer(t *testing.T, name string, size int) v1.Layer {
	t.Helper()
	source := rand.New(rand.NewPCG(uint64(size), 1))
	content := make([]byte, size)
	for i := range content {
		content[i] = "nodeimg "[source.IntN(8)]
	}
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o644, Size: int64(size)}); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(content); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return static.NewLayer(b.Bytes(), types.OCIUncompressedLayer)
}

// builtImage is like what BuildKit exports: an OCI manifest, uncompressed layers, a history with empty entries.
func builtImage(t *testing.T) v1.Image {
	t.Helper()
	base := mutate.ConfigMediaType(mutate.MediaType(empty.Image, types.OCIManifestSchema1), types.OCIConfigJSON)
	base, err := mutate.ConfigFile(base, &v1.ConfigFile{
		Architecture: "amd64", OS: "linux", RootFS: v1.RootFS{Type: "layers"},
		Config: v1.Config{Labels: map[string]string{recipes.LabelRecipe: "sha256:1234"}},
	})
	if err != nil {
		t.Fatal(err)
	}
	img, err := mutate.Append(base,
		mutate.Addendum{Layer: tarLayer(t, "usr/bin/systemd", 300_000), History: v1.History{CreatedBy: "RUN install"}},
		mutate.Addendum{History: v1.History{CreatedBy: "ENTRYPOINT", EmptyLayer: true}},
		mutate.Addendum{Layer: tarLayer(t, "usr/lib/nodeimg/store/blobs/sha256/1", 200_000), History: v1.History{CreatedBy: "COPY --link store"}},
		mutate.Addendum{Layer: tarLayer(t, "etc/os-release", 100), History: v1.History{CreatedBy: "RUN last"}},
	)
	if err != nil {
		t.Fatal(err)
	}
	return img
}

func writeBuilt(t *testing.T, img v1.Image) string {
	t.Helper()
	dir := t.TempDir()
	path, err := layout.Write(dir, empty.Index)
	if err != nil {
		t.Fatal(err)
	}
	if err := path.AppendImage(img); err != nil {
		t.Fatal(err)
	}
	return dir
}

func randomImage(t *testing.T) v1.Image {
	t.Helper()
	img, err := random.Image(50_000, 3)
	if err != nil {
		t.Fatal(err)
	}
	return img
}

// checkImage compares every digest, diff ID and size of an image with its bytes. (validate.Image reads gzip layers only.)
func checkImage(t *testing.T, img v1.Image) {
	t.Helper()
	if err := validate.Image(img, validate.Fast); err != nil {
		t.Fatal(err)
	}
	config, err := img.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	layers, err := img.Layers()
	if err != nil {
		t.Fatal(err)
	}
	if len(layers) != len(config.RootFS.DiffIDs) {
		t.Fatalf("%d layers, %d diff IDs", len(layers), len(config.RootFS.DiffIDs))
	}
	for i, layer := range layers {
		digest, err := layer.Digest()
		if err != nil {
			t.Fatal(err)
		}
		size, err := layer.Size()
		if err != nil {
			t.Fatal(err)
		}
		gotDigest, gotSize := hashOf(t, layer.Compressed)
		gotDiffID, _ := hashOf(t, layer.Uncompressed)
		if gotDigest != digest || gotSize != size || gotDiffID != config.RootFS.DiffIDs[i] {
			t.Errorf("layer %d: digest %s (want %s), size %d (want %d), diff ID %s (want %s)",
				i, gotDigest, digest, gotSize, size, gotDiffID, config.RootFS.DiffIDs[i])
		}
	}
}

func hashOf(t *testing.T, open func() (io.ReadCloser, error)) (v1.Hash, int64) {
	t.Helper()
	r, err := open()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	hash, size, err := v1.SHA256(r)
	if err != nil {
		t.Fatal(err)
	}
	return hash, size
}

func digestOf(t *testing.T, img v1.Image) v1.Hash {
	t.Helper()
	hash, err := img.Digest()
	if err != nil {
		t.Fatal(err)
	}
	return hash
}

// screen remembers what progress showed.
type screen struct {
	mu    sync.Mutex
	text  strings.Builder
	bytes map[string]int64
	total map[string]int64
}

func newScreen(ctx context.Context) (*screen, context.Context) {
	s := &screen{bytes: map[string]int64{}, total: map[string]int64{}}
	return s, progress.WithSink(ctx, func(status *client.SolveStatus) {
		s.mu.Lock()
		defer s.mu.Unlock()
		for _, vertex := range status.Vertexes {
			fmt.Fprintln(&s.text, vertex.Name, vertex.Error)
		}
		for _, log := range status.Logs {
			s.text.Write(log.Data)
		}
		for _, status := range status.Statuses {
			s.bytes[status.Vertex.String()] = status.Current
			s.total[status.Vertex.String()] = status.Total
		}
	})
}

func (s *screen) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.text.String()
}

// complete fails unless every step counted up to its total.
func (s *screen) complete(t *testing.T) {
	t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.bytes) == 0 {
		t.Error("no bytes were counted")
	}
	for step, total := range s.total {
		if s.bytes[step] != total {
			t.Errorf("a step ended at %d of %d bytes", s.bytes[step], total)
		}
	}
}

func wantInputError(t *testing.T, err error, text string) {
	t.Helper()
	var input *recipes.InputError
	if !errors.As(err, &input) || !strings.Contains(err.Error(), text) {
		t.Fatalf("want an input error with %q, got %v", text, err)
	}
}

func TestWriteLayout(t *testing.T) {
	img := builtImage(t)
	dir := filepath.Join(t.TempDir(), "out", "node")
	screen, ctx := newScreen(t.Context())
	if err := WriteLayout(ctx, dir, img, []string{"registry.example.com/node:v1", "node"}); err != nil {
		t.Fatal(err)
	}
	screen.complete(t)
	index, err := layout.ImageIndexFromPath(dir)
	if err != nil {
		t.Fatal(err)
	}
	manifest, err := index.IndexManifest()
	if err != nil {
		t.Fatal(err)
	}
	if len(manifest.Manifests) != 2 {
		t.Fatalf("index names %d images, want 2", len(manifest.Manifests))
	}
	for i, want := range []map[string]string{
		{"org.opencontainers.image.ref.name": "v1", "io.containerd.image.name": "registry.example.com/node:v1"},
		{"org.opencontainers.image.ref.name": "latest", "io.containerd.image.name": "docker.io/library/node:latest"},
	} {
		entry := manifest.Manifests[i]
		if !maps.Equal(entry.Annotations, want) || entry.Platform.String() != "linux/amd64" || entry.Digest != digestOf(t, img) {
			t.Errorf("entry %d is %+v", i, entry)
		}
	}
	read, err := onlyImage(dir)
	if err != nil {
		t.Fatal(err)
	}
	checkImage(t, read)
	wantOnly(t, filepath.Dir(dir), "node")
}

// wantOnly fails unless dir holds exactly the entries.
func wantOnly(t *testing.T, dir string, names ...string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, entry := range entries {
		got = append(got, entry.Name())
	}
	if !slices.Equal(got, names) {
		t.Errorf("%s holds %q, want %q", dir, got, names)
	}
}

func TestWriteLayoutReplaces(t *testing.T) {
	first, second := builtImage(t), randomImage(t)
	parent := t.TempDir()
	dir := filepath.Join(parent, "node")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	link := filepath.Join(parent, "link")
	if err := os.Symlink("node", link); err != nil {
		t.Fatal(err)
	}
	for _, img := range []v1.Image{first, second, second} {
		if err := WriteLayout(t.Context(), link, img, nil); err != nil {
			t.Fatal(err)
		}
		read, err := onlyImage(dir)
		if err != nil {
			t.Fatal(err)
		}
		if digestOf(t, read) != digestOf(t, img) {
			t.Fatal("the folder holds another image")
		}
		checkImage(t, read)
	}
	blobs, err := os.ReadDir(filepath.Join(dir, "blobs", "sha256"))
	if err != nil || len(blobs) != 5 {
		t.Fatalf("blobs of the replaced image are left: %d, %v", len(blobs), err)
	}
	wantOnly(t, parent, "link", "node")
}

func TestWriteLayoutRefusesOtherFolders(t *testing.T) {
	img := builtImage(t)
	for _, test := range []struct {
		name    string
		files   []string
		failure string
	}{
		{"documents", []string{"thesis.txt"}, `it holds "thesis.txt"`},
		{"layout with something else", []string{"oci-layout", "index.json", "notes.txt"}, `it holds "notes.txt"`},
		{"looks like a layout", []string{"index.json"}, "neither empty nor an OCI layout"},
	} {
		t.Run(test.name, func(t *testing.T) {
			dir := t.TempDir()
			for _, name := range test.files {
				if err := os.WriteFile(filepath.Join(dir, name), nil, 0o644); err != nil {
					t.Fatal(err)
				}
			}
			wantInputError(t, Output{Type: OutputOCI, Dest: dir}.Check("node"), test.failure)
			wantInputError(t, WriteLayout(t.Context(), dir, img, nil), test.failure)
			slices.Sort(test.files)
			wantOnly(t, dir, test.files...)
		})
	}
	t.Run("file", func(t *testing.T) {
		file := filepath.Join(t.TempDir(), "file")
		if err := os.WriteFile(file, nil, 0o644); err != nil {
			t.Fatal(err)
		}
		wantInputError(t, WriteLayout(t.Context(), file, img, nil), file)
	})
	t.Run("folder instead of file", func(t *testing.T) {
		dir := t.TempDir()
		wantInputError(t, Output{Type: OutputDocker, Dest: dir}.Check("node"), "not a regular file")
		wantInputError(t, WriteArchive(t.Context(), dir, img, nil), "not a regular file")
		wantOnly(t, dir)
	})
	t.Run("name", func(t *testing.T) {
		dir := filepath.Join(t.TempDir(), "node")
		wantInputError(t, WriteLayout(t.Context(), dir, img, []string{"Not A Name"}), "Not A Name")
		wantOnly(t, filepath.Dir(dir))
	})
}

// openedLayer tells when it is opened.
type openedLayer struct {
	v1.Layer
	opened func()
}

func (l openedLayer) Compressed() (io.ReadCloser, error) {
	l.opened()
	return l.Layer.Compressed()
}

func TestCancelLeavesNothing(t *testing.T) {
	stopped := errors.New("stopped by the user")
	for name, write := range map[string]func(context.Context, string, v1.Image, []string) error{
		"layout": WriteLayout, "archive": WriteArchive,
	} {
		t.Run(name, func(t *testing.T) {
			parent := t.TempDir()
			ctx, cancel := context.WithCancelCause(t.Context())
			img, err := mutate.AppendLayers(empty.Image, openedLayer{tarLayer(t, "file", 1000), func() { cancel(stopped) }})
			if err != nil {
				t.Fatal(err)
			}
			if err := write(ctx, filepath.Join(parent, "node"), img, nil); !errors.Is(err, stopped) {
				t.Fatalf("want %v, got %v", stopped, err)
			}
			wantOnly(t, parent)
		})
	}
}

func TestKilledWriterLeavesTheOldLayout(t *testing.T) {
	parent := t.TempDir()
	dir := filepath.Join(parent, "node")
	img := builtImage(t)
	if err := WriteLayout(t.Context(), dir, img, nil); err != nil {
		t.Fatal(err)
	}
	child := exec.Command(os.Args[0])
	child.Env = append(os.Environ(), childVariable+"="+dir)
	child.Stderr = t.Output()
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	waitFor(t, func() bool {
		blobs, _ := filepath.Glob(filepath.Join(dir+stagingInfix+"*", "new", "blobs", "sha256", "*"))
		return len(blobs) > 0
	})
	// While its owner lives, another writer must leave the staging folder alone.
	if err := WriteLayout(t.Context(), dir, img, nil); err != nil {
		t.Fatal(err)
	}
	if left, _ := filepath.Glob(dir + stagingInfix + "*"); len(left) != 1 {
		t.Fatalf("staging folders while their owner lives: %q", left)
	}
	if err := child.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = child.Wait()
	read, err := onlyImage(dir)
	if err != nil {
		t.Fatal(err)
	}
	checkImage(t, read)
	if err := WriteLayout(t.Context(), dir, img, nil); err != nil {
		t.Fatal(err)
	}
	wantOnly(t, parent, "node")
}

func waitFor(t *testing.T, condition func() bool) {
	t.Helper()
	for start := time.Now(); !condition(); time.Sleep(10 * time.Millisecond) {
		if time.Since(start) > time.Minute {
			t.Fatal("waited a minute in vain")
		}
	}
}

// TestFullDisk lets a child write without end to a file system of one megabyte, mounted where only the child sees it.
func TestFullDisk(t *testing.T) {
	parent := t.TempDir()
	script := `mount -t tmpfs -o size=1m none "$1" && { "$2" || echo "status $?"; ls -A "$1"; df --output=used "$1"; }`
	child := exec.CommandContext(t.Context(), "unshare", "--user", "--map-root-user", "--mount", "sh", "-c", script, "sh", parent, os.Args[0])
	child.Env = append(os.Environ(), childVariable+"="+filepath.Join(parent, "node"))
	child.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	out, err := child.CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	lines := strings.Split(strings.TrimSpace(string(out)), "\n")
	if len(lines) != 4 || !strings.Contains(lines[0], "writing OCI layout") || !strings.Contains(lines[0], "no space left on device") ||
		lines[1] != "status 1" || strings.TrimSpace(lines[3]) != "0" {
		t.Fatalf("want one clear error, status 1 and an empty folder, got:\n%s", out)
	}
}
