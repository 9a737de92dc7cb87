package trees_test

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/containerd/log"
	"github.com/opencontainers/go-digest"

	"github.com/nodeimg/nodeimg/internal/cache"
	"github.com/nodeimg/nodeimg/preload/trees"
)

// program is bytes from which layers are made: the fuzzer changes them.
type program struct {
	bytes []byte
	// made are the files of the layer so far, most of which can be linked to.
	made []string
}

func (p *program) next(below int) int {
	if len(p.bytes) == 0 {
		return 0
	}
	b := p.bytes[0]
	p.bytes = p.bytes[1:]
	return int(b) % below
}

// name makes a path of few different names, so that entries meet.
func (p *program) name() string {
	parts := []string{"a", "b", "c", "d", "e"}
	name := ""
	for range p.next(3) {
		name += parts[p.next(2)] + "/"
	}
	return name + parts[p.next(len(parts))]
}

func (p *program) item(number int) item {
	name := p.name()
	var i item
	switch p.next(12) {
	case 0, 1, 2:
		i = file(name, strings.Repeat(strconv.Itoa(number), 1+p.next(3)))
	case 3, 4:
		i = dir(name)
	case 5:
		targets := []string{"a", "b", "c", "/a", "/b", "a/b", "/b/c", "./c", "../a", "../b/c", ".", "/", "b/../c"}
		i = symlink(name, targets[p.next(len(targets))])
	case 6, 7:
		switch n := len(p.made); {
		case p.next(16) == 0:
			i = link(name, p.name())
		case n == 0:
			i = file(name, "")
		default:
			i = link(name, p.made[p.next(n)])
		}
	case 8, 9:
		slash := strings.LastIndex(name, "/") + 1
		i = whiteout(name[:slash] + ".wh." + name[slash:])
	case 10:
		i = whiteout(name + "/.wh..wh..opq")
	case 11:
		switch p.next(5) {
		case 0:
			i = device(tar.TypeChar, name, 0, 0)
		case 1:
			i = device(tar.TypeBlock, name, 7, 7)
		case 2:
			i = device(tar.TypeFifo, name, 0, 0)
		case 3:
			i = item{Header: tar.Header{Typeflag: tar.TypeXGlobalHeader, Name: name}}
		case 4:
			i = whiteout(".wh..wh..opq")
		}
	}
	if i.Typeflag != tar.TypeDir && !strings.Contains(i.Name, ".wh.") {
		p.made = append(p.made, i.Name)
	}
	i.ModTime = ago.Add(time.Duration(number) * time.Second)
	if i.Typeflag != tar.TypeXGlobalHeader {
		switch p.next(8) {
		case 0:
			i = i.with(func(h *tar.Header) { h.Mode, h.Uid, h.Gid = 0o2750, number, number })
		case 1:
			i = i.xattr("user.n", strconv.Itoa(number))
		case 2:
			if i.Typeflag == tar.TypeReg {
				i = i.xattr("security.capability", capability)
			}
		}
	}
	return i
}

func (p *program) layers() [][]item {
	layers := make([][]item, 1+p.next(5))
	number := 0
	for i := range layers {
		p.made = nil
		for range p.next(7) {
			number++
			layers[i] = append(layers[i], p.item(number))
		}
	}
	return layers
}

// FuzzTrees makes layers whose entries meet in every way and compares what containers see.
func FuzzTrees(f *testing.F) {
	quiet(f)
	f.Add([]byte("\x04\x06abcdefghijklmnopqrstuvwxyz0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ"))
	f.Add([]byte{2, 3, 0, 0, 0, 1, 0, 0, 1, 0, 0, 6, 0, 1, 0, 0, 0, 1, 8})
	random := rand.NewChaCha8([32]byte{})
	for range 100 {
		b := make([]byte, 150)
		_, _ = random.Read(b)
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) > 400 {
			return // Long inputs find nothing that short ones do not.
		}
		check(t, (&program{bytes: b}).layers())
	})
}

// check compares, and makes sure that we give up only where we may.
func check(t *testing.T, layers [][]item) {
	t.Helper()
	var archives [][]byte
	for _, items := range layers {
		archives = append(archives, archive(t, items...))
	}
	err := oracle(t, archives)
	if err == nil {
		return
	}
	ours, theirs := strings.Contains(err.Error(), "plan: "), strings.Contains(err.Error(), "containerd: ")
	var hostile *trees.HostileError
	switch {
	case ours && theirs:
	case ours && errors.As(err, &hostile) && strings.Contains(hostile.Reason, "leaves the tree by a symbolic link"):
		// containerd lets them end at the root.
	case theirs && strings.Contains(err.Error(), "link ") && strings.Contains(err.Error(), "no such file or directory"):
		// Hard links to files of lower layers, see TestHardLinksAcrossLayers.
	case ours && strings.Contains(err.Error(), "would be a whiteout"):
	default:
		t.Error(err)
		for i, items := range layers {
			for _, item := range items {
				t.Logf("layer %d: %c %s %s %o %v", i, item.Typeflag, item.Name, item.Linkname, item.Mode, item.PAXRecords)
			}
		}
	}
}

// quiet keeps containerd from saying what it ignores.
func quiet(t testing.TB) {
	t.Helper()
	if err := log.SetLevel("error"); err != nil {
		t.Fatal(err)
	}
}

// mend makes the checksums of headers right, or no change of a header would get past the first look.
func mend(archive []byte) []byte {
	mended := bytes.Clone(archive)
	for start := 0; start+512 <= len(mended); start += 512 {
		header := mended[start : start+512]
		if string(header[257:262]) != "ustar" {
			continue
		}
		copy(header[148:156], "        ")
		sum := 0
		for _, b := range header {
			sum += int(b)
		}
		copy(header[148:156], fmt.Sprintf("%06o\x00 ", sum))
	}
	return mended
}

// FuzzIndexLayer reads anything as a layer, compressed or not.
func FuzzIndexLayer(f *testing.F) {
	f.Add(archive(f, dir("a"), file("a/f", "1"), link("b", "a/f")))
	f.Add(archive(f, file("../f", "1")))
	f.Add([]byte("\x1f\x8b\x08\x00"))
	f.Add([]byte("\x28\xb5\x2f\xfd\x00"))
	f.Add(sparse(f, 1<<20, "--format=pax"))
	f.Add(sparse(f, 1<<20, "--format=gnu"))
	f.Fuzz(func(t *testing.T, b []byte) {
		c, err := cache.Open(scratch(t))
		if err != nil {
			t.Fatal(err)
		}
		b = mend(b)
		for _, mediaType := range []string{gzipLayer, "application/vnd.oci.image.layer.v1.tar"} {
			list, err := trees.Plan(t.Context(), c, []trees.Layer{putBlob(t, c, b, mediaType, digest.FromBytes(b))})
			var hostile *trees.HostileError
			var unfit *trees.UnfitError
			switch {
			case errors.As(err, &hostile), errors.As(err, &unfit):
			case err != nil:
				t.Fatal(err)
			default:
				for _, tree := range list {
					if tree.Size > 16<<20 {
						// A sparse file, which would only take time.
						continue
					}
					if err := tree.Write(t.Context(), tar.NewWriter(io.Discard), "tree"); err != nil {
						t.Fatal(err)
					}
				}
			}
		}
	})
}
