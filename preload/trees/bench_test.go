package trees_test

import (
	"archive/tar"
	"crypto/sha256"
	"io"
	"os"
	"strconv"
	"testing"
	"time"

	"github.com/klauspost/compress/gzip"
	"golang.org/x/sys/unix"

	"github.com/nodeimg/nodeimg/internal/cache"
	"github.com/nodeimg/nodeimg/preload/trees"
)

// benchmarkImage is an image of some large programs and many small files, in two layers. It returns the layers and
// their uncompressed size.
func benchmarkImage(b *testing.B, c *cache.Cache) ([]trees.Layer, int64) {
	b.Helper()
	program, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		b.Fatal(err)
	}
	var programs []item
	for i := range 4 {
		programs = append(programs, file("bin/"+strconv.Itoa(i), string(program)))
	}
	var small []item
	for i := range 5000 {
		small = append(small, file("lib/"+strconv.Itoa(i%50)+"/"+strconv.Itoa(i), string(make([]byte, i))))
	}
	lower, upper := archive(b, programs...), archive(b, small...)
	return []trees.Layer{put(b, c, lower), put(b, c, upper)}, int64(len(lower) + len(upper))
}

// processor returns the time that the process has spent computing, which other processes on the machine do not change.
func processor(b *testing.B) time.Duration {
	b.Helper()
	var usage unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &usage); err != nil {
		b.Fatal(err)
	}
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
}

// measure reports the computing time of f, which reads size bytes.
func measure(b *testing.B, size int64, f func()) {
	b.Helper()
	b.SetBytes(size)
	before := processor(b)
	for b.Loop() {
		f()
	}
	b.ReportMetric(float64(processor(b)-before)/float64(b.N), "cpu-ns/op")
}

// BenchmarkPlanWrite compares making the trees of an image whose layers are known with decompressing and hashing the layers once.
func BenchmarkPlanWrite(b *testing.B) {
	c, err := cache.Open(b.TempDir())
	if err != nil {
		b.Fatal(err)
	}
	layers, size := benchmarkImage(b, c)
	b.Run("decompress and hash", func(b *testing.B) {
		measure(b, size, func() {
			for _, layer := range layers {
				blob, err := c.Open(layer.Digest)
				if err != nil {
					b.Fatal(err)
				}
				r, err := gzip.NewReader(blob)
				if err != nil {
					b.Fatal(err)
				}
				if _, err := io.Copy(sha256.New(), r); err != nil {
					b.Fatal(err)
				}
				_ = blob.Close()
			}
		})
	})
	for name, out := range map[string]io.Writer{"plan and write": io.Discard, "plan and write and hash": sha256.New()} {
		b.Run(name, func(b *testing.B) {
			plan(b, c, layers...)
			measure(b, size, func() {
				w := tar.NewWriter(out)
				for _, tree := range plan(b, c, layers...) {
					if err := tree.Write(b.Context(), w, "tree"); err != nil {
						b.Fatal(err)
					}
				}
			})
		})
	}
	b.Run("first plan", func(b *testing.B) {
		measure(b, size, func() {
			fresh, err := cache.Open(b.TempDir())
			if err != nil {
				b.Fatal(err)
			}
			for _, layer := range layers {
				if err := os.Link(c.Path(layer.Digest), fresh.Path(layer.Digest)); err != nil {
					b.Fatal(err)
				}
			}
			plan(b, fresh, layers...)
		})
	})
}
