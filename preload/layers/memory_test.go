package layers_test

import (
	"archive/tar"
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/klauspost/compress/gzip"

	"github.com/nodeimg/nodeimg/internal/cache"
	"github.com/nodeimg/nodeimg/preload/layers"
	"github.com/nodeimg/nodeimg/recipes"
)

// mostMemory is what nodeimg may need, in bytes, however large images are.
const mostMemory = 300 << 20

// TestMemory makes layers of two images that come to 1 GiB, in a process of its own, whose memory the kernel has measured.
func TestMemory(t *testing.T) {
	if locked := os.Getenv("NODEIMG_TEST_MEMORY"); locked != "" {
		makeAndMeasure(t, locked)
		return
	}
	c := newCache(t)
	var images []recipes.LockedImage
	for i := range 2 {
		images = append(images, put(t, c, name(i), imageOf(t, giant(t, fmt.Sprint("giant", i), 512<<20))))
	}
	locked, err := json.Marshal(images)
	if err != nil {
		t.Fatal(err)
	}
	for _, layout := range []recipes.Layout{recipes.LayoutPacked, recipes.LayoutUnpacked} {
		cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestMemory$", "-test.v")
		cmd.Env = append(os.Environ(), "NODEIMG_TEST_MEMORY="+string(locked), cache.EnvironmentVariable+"="+c.Root(), "NODEIMG_TEST_LAYOUT="+string(layout))
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		var peak, made int64
		_, after, _ := strings.Cut(string(out), "peak ")
		if _, err := fmt.Sscanf(after, "%d kB, %d layers", &peak, &made); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		t.Logf("%s: %d MiB", layout, peak>>10)
		if peak<<10 > mostMemory || peak == 0 || made != 2 {
			t.Errorf("%s: %d layers with %d KiB", layout, made, peak)
		}
	}
}

func makeAndMeasure(t *testing.T, locked string) {
	var images []recipes.LockedImage
	if err := json.Unmarshal([]byte(locked), &images); err != nil {
		t.Fatal(err)
	}
	c, err := cache.Open("")
	if err != nil {
		t.Fatal(err)
	}
	made, err := layers.Make(t.Context(), c, images, options(recipes.Layout(os.Getenv("NODEIMG_TEST_LAYOUT"))))
	if err != nil {
		t.Fatal(err)
	}
	// VmHWM is the most memory that the process ever had (proc_pid_status(5)).
	status, err := os.Open("/proc/self/status")
	if err != nil {
		t.Fatal(err)
	}
	defer status.Close()
	for lines := bufio.NewScanner(status); lines.Scan(); {
		if value, ok := strings.CutPrefix(lines.Text(), "VmHWM:"); ok {
			fmt.Printf("peak %s, %d layers\n", strings.TrimSpace(value), len(made))
		}
	}
}

// giant is a layer with one file of the size. Its content is a block that is repeated, so that making it takes no time.
func giant(t testing.TB, seed string, size int64) v1.Layer {
	t.Helper()
	var b bytes.Buffer
	compressor, err := gzip.NewWriterLevel(&b, gzip.BestSpeed)
	if err != nil {
		t.Fatal(err)
	}
	w := tar.NewWriter(compressor)
	if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: seed, Mode: 0o644, Size: size}); err != nil {
		t.Fatal(err)
	}
	block := bytesOf(seed, 16<<10)
	for written := int64(0); written < size; written += int64(len(block)) {
		if _, err := w.Write(block); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(w.Close(), compressor.Close()); err != nil {
		t.Fatal(err)
	}
	l, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(b.Bytes())), nil })
	if err != nil {
		t.Fatal(err)
	}
	return l
}
