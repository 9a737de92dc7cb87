// Package buildtest has what the tests of the builders share: the pinned buildkitd, a tiny base image in a cache, and a look at what a
// builder leaves on the machine. Nothing in it stands in for anything real but for Sysbox, which the test machines lack.
package buildtest

import (
	"archive/tar"
	"bytes"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/gofrs/flock"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/opencontainers/go-digest"

	"github.com/nodeimg/nodeimg/internal/cache"
)

// goBuild builds pkg into the user's cache, where it stays up to date, and returns the path. The flags are those of the product's programs,
// so that the packages of both are compiled once.
func goBuild(t testing.TB, pkg, name string) string {
	t.Helper()
	user, err := os.UserCacheDir()
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(user, "nodeimg-test", "bin")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, name)
	lock := flock.New(path + ".lock")
	if err := lock.Lock(); err != nil {
		t.Fatal(err)
	}
	defer lock.Close()
	cmd := exec.Command("go", "build", "-trimpath", "-buildvcs=false", "-o", path, pkg)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("go build %s: %v\n%s", pkg, err, out)
	}
	return path
}

// Buildkitd returns the path of the daemon at the version that go.mod pins.
func Buildkitd(t testing.TB) string {
	t.Helper()
	return goBuild(t, "github.com/moby/buildkit/cmd/buildkitd", "buildkitd")
}

// Tool returns the path of the program of the folder tool.
func Tool(t testing.TB) string {
	t.Helper()
	return goBuild(t, "github.com/nodeimg/nodeimg/builder/internal/buildtest/tool", "tool")
}

// Sysbox returns the path of the program that stands in for Sysbox, see its documentation.
func Sysbox(t testing.TB) string {
	t.Helper()
	return goBuild(t, "github.com/nodeimg/nodeimg/test/internal/sysbox", "sysbox")
}

// Recorder returns the path of the program that records how it is called and then is runc.
func Recorder(t testing.TB) string {
	t.Helper()
	return goBuild(t, "github.com/nodeimg/nodeimg/test/internal/sysbox/recorder", "recorder")
}

// Image is the image of the digest in the OCI layout in dir.
func Image(t testing.TB, dir string, d digest.Digest) v1.Image {
	t.Helper()
	p, err := layout.FromPath(dir)
	if err != nil {
		t.Fatal(err)
	}
	hash, err := v1.NewHash(d.String())
	if err != nil {
		t.Fatal(err)
	}
	image, err := p.Image(hash)
	if err != nil {
		t.Fatal(err)
	}
	return image
}

// Base stores an image in c whose root file system is the program of the folder tool, as /bin/tool and /bin/sh, and returns the
// digest of its manifest.
func Base(t testing.TB, c *cache.Cache) digest.Digest {
	t.Helper()
	program, err := os.ReadFile(Tool(t))
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, h := range []*tar.Header{
		{Typeflag: tar.TypeDir, Name: "bin/", Mode: 0o755},
		{Typeflag: tar.TypeReg, Name: "bin/tool", Mode: 0o755, Size: int64(len(program))},
		{Typeflag: tar.TypeLink, Name: "bin/sh", Linkname: "bin/tool", Mode: 0o755},
	} {
		h.ModTime = time.Unix(1, 0)
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if h.Typeflag == tar.TypeReg {
			if _, err := w.Write(program); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	layer, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) {
		return io.NopCloser(bytes.NewReader(b.Bytes())), nil
	}, tarball.WithMediaType(types.OCILayer))
	if err != nil {
		t.Fatal(err)
	}
	img, err := mutate.AppendLayers(mutate.ConfigMediaType(mutate.MediaType(empty.Image, types.OCIManifestSchema1), types.OCIConfigJSON), layer)
	if err != nil {
		t.Fatal(err)
	}
	img, err = mutate.ConfigFile(img, withPlatform(t, img))
	if err != nil {
		t.Fatal(err)
	}
	compressed, err := layer.Compressed()
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := c.Put(compressed, ""); err != nil {
		t.Fatal(err)
	}
	for _, raw := range []func() ([]byte, error){img.RawConfigFile, img.RawManifest} {
		blob, err := raw()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := c.PutBytes(blob); err != nil {
			t.Fatal(err)
		}
	}
	d, err := img.Digest()
	if err != nil {
		t.Fatal(err)
	}
	return digest.Digest(d.String())
}

func withPlatform(t testing.TB, img v1.Image) *v1.ConfigFile {
	t.Helper()
	config, err := img.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	config = config.DeepCopy()
	config.OS, config.Architecture = "linux", "amd64"
	config.Config.Env = []string{"PATH=/bin"}
	return config
}

// Cache returns an empty cache in a folder of the test.
func Cache(t testing.TB) *cache.Cache {
	t.Helper()
	c, err := cache.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// Leftovers returns every process whose command line has one of the words, every mount in any process's mount namespace whose line
// has one, every runc container whose state has one, and every cgroup and every folder below /run named by one.
func Leftovers(t testing.TB, words ...string) []string {
	t.Helper()
	matches := func(text string) bool {
		return slices.ContainsFunc(words, func(word string) bool { return word != "" && strings.Contains(text, word) })
	}
	var found []string
	processes, err := filepath.Glob("/proc/[0-9]*")
	if err != nil || len(processes) == 0 {
		t.Fatalf("listing processes: %v", err)
	}
	self := "/proc/" + pid()
	for _, p := range processes {
		// Processes come and go while this looks at them.
		command, _ := os.ReadFile(p + "/cmdline")
		line := strings.TrimSpace(strings.ReplaceAll(string(command), "\x00", " "))
		if p != self && matches(line) {
			found = append(found, "process "+p+": "+line)
		}
		mounts, _ := os.ReadFile(p + "/mountinfo")
		for m := range strings.Lines(string(mounts)) {
			if matches(m) {
				found = append(found, "mount in "+p+": "+strings.TrimSpace(m))
			}
		}
	}
	states, _ := filepath.Glob("/run/runc/*/state.json")
	for _, path := range states {
		if b, _ := os.ReadFile(path); matches(string(b)) {
			found = append(found, "container "+filepath.Dir(path))
		}
	}
	for _, root := range []string{"/sys/fs/cgroup", "/run"} {
		_ = filepath.WalkDir(root, func(path string, e fs.DirEntry, err error) error {
			if err == nil && e.IsDir() && matches(e.Name()) {
				found = append(found, "folder "+path)
			}
			return nil
		})
	}
	return found
}

func pid() string {
	p, _ := os.Readlink("/proc/self")
	return p
}

// Eventually polls until done returns true, and fails the test with what when that takes absurdly long.
func Eventually(t testing.TB, what string, done func() bool) {
	t.Helper()
	for deadline := time.Now().Add(2 * time.Minute); ; time.Sleep(20 * time.Millisecond) {
		if done() {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s: still not so after two minutes", what)
		}
	}
}
