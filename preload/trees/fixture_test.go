package trees_test

import (
	"archive/tar"
	"bytes"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/klauspost/compress/gzip"
	"github.com/opencontainers/go-digest"

	"github.com/nodeimg/nodeimg/internal/cache"
	"github.com/nodeimg/nodeimg/preload/trees"
)

// TestMain runs the tests in a mount namespace of their own, so that no mount outlives them.
func TestMain(m *testing.M) {
	const inside = "NODEIMG_TEST_MOUNT_NAMESPACE"
	if os.Getenv(inside) != "" {
		os.Exit(m.Run())
	}
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Env = append(os.Environ(), inside+"=1")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS, Pdeathsig: syscall.SIGTERM}
	if err := cmd.Run(); err != nil {
		if cmd.ProcessState == nil {
			panic(err)
		}
		os.Exit(max(cmd.ProcessState.ExitCode(), 1))
	}
}

// long ago, so that the times of entries differ from those of the test.
var ago = time.Unix(1_000_000_000, 123_456_789)

// item is an entry of a layer with its content.
type item struct {
	tar.Header
	content string
}

func dir(name string) item {
	return item{Header: tar.Header{Typeflag: tar.TypeDir, Name: name + "/", Mode: 0o755, ModTime: ago}}
}

func file(name, content string) item {
	return item{Header: tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o644, ModTime: ago}, content: content}
}

func symlink(name, target string) item {
	return item{Header: tar.Header{Typeflag: tar.TypeSymlink, Name: name, Linkname: target, Mode: 0o777, ModTime: ago}}
}

func link(name, target string) item {
	return item{Header: tar.Header{Typeflag: tar.TypeLink, Name: name, Linkname: target, Mode: 0o644, ModTime: ago}}
}

func device(kind byte, name string, major, minor int64) item {
	return item{Header: tar.Header{Typeflag: kind, Name: name, Mode: 0o600, Devmajor: major, Devminor: minor, ModTime: ago}}
}

// with changes the header.
func (i item) with(change func(*tar.Header)) item {
	if i.PAXRecords == nil {
		i.PAXRecords = map[string]string{}
	}
	change(&i.Header)
	return i
}

func (i item) xattr(name, value string) item {
	return i.with(func(h *tar.Header) { h.PAXRecords["SCHILY.xattr."+name] = value })
}

// archive is the uncompressed layer.
func archive(t testing.TB, items ...item) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, i := range items {
		h := i.Header
		h.Size = int64(len(i.content))
		if h.Format == tar.FormatUnknown {
			h.Format = tar.FormatPAX
		}
		if h.Typeflag == tar.TypeXGlobalHeader {
			h = tar.Header{Typeflag: h.Typeflag, Name: h.Name, PAXRecords: map[string]string{"comment": "x"}, Format: tar.FormatPAX}
		}
		if len(h.PAXRecords) == 0 {
			h.PAXRecords = nil
		}
		if err := w.WriteHeader(&h); err != nil {
			t.Fatalf("%s: %v", h.Name, err)
		}
		if _, err := w.Write([]byte(i.content)); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

const gzipLayer = "application/vnd.oci.image.layer.v1.tar+gzip"

// put stores the archive as a gzip layer.
func put(t testing.TB, c *cache.Cache, archive []byte) trees.Layer {
	t.Helper()
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	if _, err := w.Write(archive); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return putBlob(t, c, b.Bytes(), gzipLayer, digest.FromBytes(archive))
}

func putBlob(t testing.TB, c *cache.Cache, blob []byte, mediaType string, diffID digest.Digest) trees.Layer {
	t.Helper()
	d, err := c.PutBytes(blob)
	if err != nil {
		t.Fatal(err)
	}
	return trees.Layer{Digest: d, Size: int64(len(blob)), MediaType: mediaType, DiffID: diffID}
}

func open(t testing.TB) *cache.Cache {
	t.Helper()
	c, err := cache.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// folder is where a tree lies in these tests.
func folder(chain digest.Digest) string {
	return "usr/lib/nodeimg/snapshots/" + strings.TrimPrefix(chain.String(), "sha256:")
}

// write returns the trees' entries as one archive.
func write(t testing.TB, list []*trees.Tree) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, tree := range list {
		if err := tree.Write(t.Context(), w, folder(tree.ChainID)); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}
