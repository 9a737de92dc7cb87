package layers_test

import (
	"fmt"
	"io"
	"os"
	"syscall"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/klauspost/compress/gzip"
	"github.com/opencontainers/go-digest"

	"github.com/nodeimg/nodeimg/internal/cache"
	"github.com/nodeimg/nodeimg/preload/layers"
	"github.com/nodeimg/nodeimg/recipes"
)

// BenchmarkUnpacked compares making the layers of a control plane with decompressing and hashing its layers once, one after the other: in
// time, and in the work of all processors, which does not depend on what else the machine does. The indexes are in the cache, the layers
// are not.
func BenchmarkUnpacked(b *testing.B) {
	program, err := os.ReadFile(os.Args[0])
	if err != nil {
		b.Fatal(err)
	}
	c := newCache(b)
	base := layer(b, "base", 2<<20)
	var images []recipes.LockedImage
	for i := range 7 {
		// Each image has a program of its own, as kube-apiserver and its siblings do.
		own := append([]byte(fmt.Sprint(i)), program...)
		images = append(images, put(b, c, name(i), imageOf(b, base, layer(b, fmt.Sprint("settings", i), small), layerOf(b, file("program", own)))))
	}
	o := options(recipes.LayoutUnpacked)
	mustMake(b, c, images, o)
	blobs := map[digest.Digest]bool{}
	for _, image := range images {
		for _, d := range mustParts(b, c, image).Layers {
			blobs[d.Digest] = true
		}
	}
	var making, once measure
	for i := 0; b.Loop(); i++ {
		// Another time gives other layers.
		o.Epoch = epoch.Add(time.Duration(i+1) * time.Second)
		var made []layers.Layer
		making.add(b, func() { made = mustMake(b, c, images, o) })
		once.add(b, func() { decompress(b, c, blobs) })
		b.StopTimer()
		for _, l := range made {
			remove(b, c, l)
		}
		b.StartTimer()
	}
	b.ReportMetric(float64(making.time)/float64(once.time), "×time")
	b.ReportMetric(float64(making.work)/float64(once.work), "×work")
}

// measure sums up time, and work of processors.
type measure struct{ time, work time.Duration }

func (m *measure) add(b *testing.B, f func()) {
	start, before := time.Now(), work(b)
	f()
	m.time += time.Since(start)
	m.work += work(b) - before
}

// work is what processors have done for this process so far.
func work(b *testing.B) time.Duration {
	b.Helper()
	var usage syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &usage); err != nil {
		b.Fatal(err)
	}
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
}

func decompress(b *testing.B, c *cache.Cache, blobs map[digest.Digest]bool) {
	b.Helper()
	for d := range blobs {
		f, err := c.Open(d)
		if err != nil {
			b.Fatal(err)
		}
		r, err := gzip.NewReader(f)
		if err != nil {
			b.Fatal(err)
		}
		if _, err := io.Copy(digest.SHA256.Digester().Hash(), r); err != nil {
			b.Fatal(err)
		}
		_ = f.Close()
	}
}

func remove(b *testing.B, c *cache.Cache, l v1.Layer) {
	b.Helper()
	d, err := l.Digest()
	if err != nil {
		b.Fatal(err)
	}
	if err := os.Remove(c.Path(digest.Digest(d.String()))); err != nil {
		b.Fatal(err)
	}
}
