package trees_test

import (
	"archive/tar"
	"bytes"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	containerd "github.com/containerd/containerd/v2/pkg/archive"
	"github.com/containerd/continuity/fs"
	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"

	"github.com/nodeimg/nodeimg/internal/cache"
	"github.com/nodeimg/nodeimg/preload/trees"
)

// plan returns the trees of layers that can be unpacked.
func plan(t testing.TB, c *cache.Cache, layers ...trees.Layer) []*trees.Tree {
	t.Helper()
	list, err := trees.Plan(t.Context(), c, layers)
	if err != nil {
		t.Fatal(err)
	}
	return list
}

// sparse is an archive of one sparse file of the size with some bytes in the middle.
func sparse(t testing.TB, size int64, options ...string) []byte {
	t.Helper()
	dir := t.TempDir()
	f, err := os.Create(filepath.Join(dir, "sparse"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteAt([]byte("in the middle"), size/2); err != nil {
		t.Fatal(err)
	}
	if err := f.Truncate(size); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command("tar", append(options, "-C", dir, "-S", "-c", "sparse")...).Output()
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func TestSparseFiles(t *testing.T) {
	for _, version := range []string{"0.0", "0.1", "1.0"} {
		t.Run(version, func(t *testing.T) {
			layer := sparse(t, 1<<20, "--format=pax", "--sparse-version="+version)
			if len(layer) > 1<<18 {
				t.Fatalf("the archive is not sparse: %d bytes", len(layer))
			}
			if err := oracle(t, [][]byte{layer}); err != nil {
				t.Fatal(err)
			}
		})
	}
}

// TestLargeFile is about more than the 8 GiB that the classic tar header can say.
func TestLargeFile(t *testing.T) {
	const size = 8<<30 + 5
	c := open(t)
	list := plan(t, c, put(t, c, sparse(t, size, "--format=pax")))
	r, w := io.Pipe()
	go func() { w.CloseWithError(list[0].Write(t.Context(), tar.NewWriter(w), "tree")) }()
	tr := tar.NewReader(r)
	for {
		h, err := tr.Next()
		if err != nil {
			t.Fatal(err)
		}
		if h.Name != "tree/fs/sparse" {
			continue
		}
		if n, err := io.Copy(io.Discard, tr); err != nil || n != size || h.Size != size {
			t.Errorf("%d of %d bytes: %v", n, h.Size, err)
		}
		return
	}
}

// TestSparseBomb is a small blob with a file of more bytes than there are disks for.
func TestSparseBomb(t *testing.T) {
	c := open(t)
	layer := put(t, c, sparse(t, trees.FreeLayerSize+1, "--format=pax"))
	_, err := trees.Plan(t.Context(), c, []trees.Layer{layer})
	var hostile *trees.HostileError
	if !errors.As(err, &hostile) || hostile.Entry != "sparse" {
		t.Errorf("got %v", err)
	}
}

func TestHardLinksAcrossLayers(t *testing.T) {
	owned := func(i item) item {
		return i.with(func(h *tar.Header) { h.Uid, h.Gid, h.Mode = 5, 6, 0o4711 })
	}
	for name, layers := range map[string][][]item{
		"file":                   {{dir("a"), owned(file("a/f", "hello")).xattr("user.x", "1")}, {owned(link("g", "a/f"))}},
		"same directory":         {{owned(dir("a")), owned(file("a/f", "hello"))}, {owned(link("a/g", "a/f"))}},
		"link of a link":         {{file("f", "hello"), link("g", "f")}, {link("h", "f")}},
		"symbolic link":          {{symlink("f", "x")}, {link("g", "f")}},
		"device":                 {{device(tar.TypeChar, "f", 1, 3)}, {link("g", "f")}},
		"attributes of the link": {{file("f", "hello").xattr("security.capability", capability)}, {owned(link("g", "f"))}},
		"deep":                   {{dir("a"), owned(dir("a/b")).xattr("user.d", "1"), file("a/b/f", "hello")}, {dir("a"), file("a/x", "")}, {link("c", "a/b/f")}},
		"through a link below":   {{dir("usr"), file("usr/f", "hello"), symlink("lib", "usr")}, {link("g", "lib/f")}},
		"twice and then merged":  {{file("a", "hello"), file("x", "")}, {link("b", "a")}, {link("c", "a")}, {whiteout(".wh.x")}},
		"of a copied file":       {{file("a", "hello")}, {link("b", "a"), link("c", "b"), link("d", "a")}},
	} {
		t.Run(name, func(t *testing.T) {
			root := scratch(t)
			c := open(t)
			var layers2 []trees.Layer
			var uppers []string
			for i, items := range layers {
				layer := archive(t, items...)
				layers2 = append(layers2, put(t, c, layer))
				uppers = throughOverlay(t, filepath.Join(root, strconv.Itoa(i)), uppers, layer)
			}
			ours := filepath.Join(root, "ours")
			if err := os.Mkdir(ours, 0o755); err != nil {
				t.Fatal(err)
			}
			want := mount(t, root, uppers)
			got := mount(t, ours, extract(t, ours, plan(t, c, layers2...)))
			if differences := compare(want, got); len(differences) > 0 {
				t.Errorf("a container sees something else:\n%s", strings.Join(differences, "\n"))
			}
		})
	}
}

// throughOverlay has containerd unpack a layer into a mounted overlayfs, as it does for other snapshotters: there a hard link to a file
// of a lower layer copies that up.
func throughOverlay(t testing.TB, dir string, lower []string, layer []byte) []string {
	t.Helper()
	upper, work, merged := filepath.Join(dir, "upper"), filepath.Join(dir, "work"), filepath.Join(dir, "merged")
	for _, name := range []string{upper, work, merged} {
		if err := os.MkdirAll(name, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	target := upper
	if len(lower) > 0 {
		target = merged
		options := "index=off,lowerdir=" + strings.Join(lower, ":") + ",upperdir=" + upper + ",workdir=" + work
		if err := unix.Mount("overlay", merged, "overlay", 0, options); err != nil {
			t.Fatal(err)
		}
		defer func() {
			if err := unix.Unmount(merged, 0); err != nil {
				t.Error(err)
			}
		}()
	}
	if _, err := containerd.Apply(t.Context(), target, bytes.NewReader(layer)); err != nil {
		t.Fatal(err)
	}
	return append([]string{upper}, lower...)
}

// TestMerging is about which snapshots there are.
func TestMerging(t *testing.T) {
	base, more := []item{dir("a"), file("a/f", "1")}, []item{file("b", "2")}
	deletes, nothing := []item{whiteout("a/.wh.f")}, []item{whiteout("a/.wh.other")}
	for name, test := range map[string]struct {
		layers [][]item
		// trees is how many of the topmost there are.
		trees int
	}{
		"nothing deleted":             {[][]item{base, more, nothing}, 3},
		"deleted at the top":          {[][]item{base, more, deletes}, 1},
		"deleted below":               {[][]item{base, deletes, more, nothing}, 3},
		"deleted twice":               {[][]item{base, deletes, base, deletes, more}, 2},
		"deleted what is gone":        {[][]item{base, deletes, deletes, more}, 3},
		"opaque over an empty folder": {[][]item{{dir("a")}, {whiteout("a/.wh..wh..opq")}}, 2},
		"opaque over a file":          {[][]item{base, {whiteout("a/.wh..wh..opq")}}, 1},
	} {
		t.Run(name, func(t *testing.T) {
			c := open(t)
			var layers []trees.Layer
			for _, items := range test.layers {
				layers = append(layers, put(t, c, archive(t, items...)))
			}
			list := plan(t, c, layers...)
			if len(list) != test.trees {
				t.Fatalf("%d trees, want %d", len(list), test.trees)
			}
			below := digest.Digest("")
			for i, tree := range list {
				if tree.Parent != below || tree.Blob != layers[len(layers)-len(list)+i].Digest {
					t.Errorf("tree %d: parent %q, blob %s", i, tree.Parent, tree.Blob)
				}
				below = tree.ChainID
			}
			b := write(t, list)
			for r := tar.NewReader(bytes.NewReader(b)); ; {
				h, err := r.Next()
				if errors.Is(err, io.EOF) {
					break
				}
				if err != nil {
					t.Fatal(err)
				}
				if strings.Contains(h.Name, ".wh.") || h.Typeflag == tar.TypeChar {
					t.Errorf("a whiteout: %s", h.Name)
				}
			}
		})
	}
}

// TestCompressions unpacks one layer in every form.
func TestCompressions(t *testing.T) {
	plain := archive(t, file("f", strings.Repeat("content ", 1000)))
	c := open(t)
	z, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	d := digest.FromBytes(plain)
	want := write(t, plan(t, c, put(t, c, plain)))
	for name, layer := range map[string]trees.Layer{
		"none":            putBlob(t, c, plain, "application/vnd.oci.image.layer.v1.tar", d),
		"zstd":            putBlob(t, c, z.EncodeAll(plain, nil), "application/vnd.oci.image.layer.v1.tar+zstd", d),
		"zstd as gzip":    putBlob(t, c, z.EncodeAll(plain, nil), gzipLayer, d),
		"none as Docker":  putBlob(t, c, plain, "application/vnd.docker.image.rootfs.diff.tar.gzip", d),
		"foreign":         putBlob(t, c, plain, "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip", d),
		"nondistributed":  putBlob(t, c, z.EncodeAll(plain, nil), "application/vnd.oci.image.layer.nondistributable.v1.tar+zstd", d),
		"several members": putBlob(t, c, append(z.EncodeAll(plain[:512], nil), z.EncodeAll(plain[512:], nil)...), "application/vnd.oci.image.layer.v1.tar+zstd", d),
	} {
		if got := write(t, plan(t, c, layer)); !bytes.Equal(got, want) {
			t.Errorf("%s: another tree", name)
		}
	}
}

// TestSame writes the same bytes every time, and reads a layer for its index once.
func TestSame(t *testing.T) {
	c := open(t)
	var layers []trees.Layer
	for _, items := range cases["hard links that a whiteout parts"] {
		layers = append(layers, put(t, c, archive(t, items...)))
	}
	want := write(t, plan(t, c, layers...))
	other := open(t)
	for _, items := range cases["hard links that a whiteout parts"] {
		put(t, other, archive(t, items...))
	}
	if got := write(t, plan(t, other, layers...)); !bytes.Equal(got, want) {
		t.Error("another cache, another tree")
	}
	for _, layer := range layers {
		if err := os.Remove(c.Path(layer.Digest)); err != nil {
			t.Fatal(err)
		}
	}
	list := plan(t, c, layers...)
	err := list[0].Write(t.Context(), tar.NewWriter(io.Discard), "tree")
	if !errors.Is(err, os.ErrNotExist) {
		t.Errorf("writing without the blobs: %v", err)
	}
}

// TestUsage compares with what containerd counts. A tmpfs counts nothing for directories.
func TestUsage(t *testing.T) {
	c := open(t)
	layer := put(t, c, archive(t, dir("a"), dir("a/b"), file("a/f", "1"), file("a/empty", ""), file("a/large", strings.Repeat("x", 4097)), link("l", "a/large"), symlink("s", "a"), device(tar.TypeFifo, "p", 0, 0)))
	list := plan(t, c, layer)
	root := scratch(t)
	dirs := extract(t, root, list)
	usage, err := fs.DiskUsage(t.Context(), dirs[0])
	if err != nil {
		t.Fatal(err)
	}
	if list[0].Inodes != usage.Inodes || list[0].Size-3*4096 != usage.Size {
		t.Errorf("%d bytes and %d inodes, want %d and %d", list[0].Size, list[0].Inodes, usage.Size+3*4096, usage.Inodes)
	}
}
