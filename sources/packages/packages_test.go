package packages_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/opencontainers/go-digest"

	"github.com/nodeimg/nodeimg/internal/cache"
	"github.com/nodeimg/nodeimg/internal/fetch"
	"github.com/nodeimg/nodeimg/recipes"
	"github.com/nodeimg/nodeimg/sources/packages"
)

// nodePackages are those of a node.
var nodePackages = []string{
	"systemd", "systemd-sysv", "dbus", "procps", "iproute2", "iptables", "nftables", "conntrack", "socat", "ethtool", "kmod", "ca-certificates",
	"libseccomp2", "netbase", "hostname", "bash",
}

var epoch = time.Unix(1_700_000_000, 0)

// sharedCache is the user's own cache, so that packages are downloaded once only.
func sharedCache(t *testing.T) *cache.Cache {
	t.Helper()
	c, err := cache.Open("")
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// askingCache has the package lists of the shared cache and none of apt's answers.
func askingCache(t *testing.T, u *packages.Universe) *cache.Cache {
	t.Helper()
	shared := sharedCache(t)
	if _, err := u.Resolve(t.Context(), shared, []string{"bash"}); err != nil {
		t.Fatal(err)
	}
	c, err := cache.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	lists, err := filepath.Glob(filepath.Join(shared.Root(), "apt/*/lists/*_*"))
	if err != nil || len(lists) == 0 {
		t.Fatalf("the shared cache has no package lists (%v)", err)
	}
	for _, list := range lists {
		name, err := filepath.Rel(shared.Root(), list)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.MkdirAll(filepath.Dir(filepath.Join(c.Root(), name)), 0o755); err != nil {
			t.Fatal(err)
		}
		// apt never writes into a list that is there. One that another process replaces meanwhile is fetched.
		if err := os.Link(list, filepath.Join(c.Root(), name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			copyFile(t, list, filepath.Join(c.Root(), name))
		}
	}
	return c
}

func copyFile(t *testing.T, from, to string) {
	t.Helper()
	content, err := os.ReadFile(from)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(to, content, 0o644); err != nil {
		t.Fatal(err)
	}
}

// privateCache has the packages of the shared one and nothing else.
func privateCache(t *testing.T, locked []recipes.LockedPackage) *cache.Cache {
	t.Helper()
	shared := sharedCache(t)
	client := &fetch.Client{Cache: shared}
	if err := packages.Fetch(t.Context(), client, locked); err != nil {
		t.Fatal(err)
	}
	c, err := cache.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range locked {
		linkBlob(t, shared, c, p.Digest)
	}
	return c
}

func linkBlob(t *testing.T, from, to *cache.Cache, d string) {
	t.Helper()
	source, target := from.Path(digest.Digest(d)), to.Path(digest.Digest(d))
	if err := os.Link(source, target); err == nil {
		return
	}
	f, err := from.Open(digest.Digest(d))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, _, err := to.Put(f, digest.Digest(d)); err != nil {
		t.Fatal(err)
	}
}

const platform = "linux/" + runtime.GOARCH

type distribution struct{ distro, codename string }

// hostDistribution is the one that this host's own apt sources serve.
func hostDistribution(t *testing.T) distribution {
	t.Helper()
	text, err := os.ReadFile("/etc/os-release")
	if err != nil {
		t.Fatal(err)
	}
	fields := map[string]string{}
	for line := range strings.Lines(string(text)) {
		key, value, _ := strings.Cut(strings.TrimSpace(line), "=")
		fields[key] = strings.Trim(value, `"`)
	}
	return distribution{fields["ID"], fields["VERSION_CODENAME"]}
}

// cachedImage reads an image of the cache through an OCI layout, as everyone else does.
func cachedImage(t *testing.T, c *cache.Cache, manifest digest.Digest) v1.Image {
	t.Helper()
	dir := t.TempDir()
	path, err := layout.Write(dir, empty.Index)
	if err != nil {
		t.Fatal(err)
	}
	content, err := os.ReadFile(c.Path(manifest))
	if err != nil {
		t.Fatal(err)
	}
	parsed, err := v1.ParseManifest(bytes.NewReader(content))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Join(dir, "blobs/sha256"), 0o755); err != nil {
		t.Fatal(err)
	}
	for _, d := range append(parsed.Layers, parsed.Config, v1.Descriptor{Digest: v1.Hash{Algorithm: "sha256", Hex: manifest.Encoded()}}) {
		if err := os.Link(c.Path(digest.Digest(d.Digest.String())), filepath.Join(dir, "blobs/sha256", d.Digest.Hex)); err != nil {
			t.Fatal(err)
		}
	}
	if err := path.AppendDescriptor(v1.Descriptor{MediaType: parsed.MediaType, Size: int64(len(content)), Digest: v1.Hash{Algorithm: "sha256", Hex: manifest.Encoded()}}); err != nil {
		t.Fatal(err)
	}
	index, err := path.ImageIndex()
	if err != nil {
		t.Fatal(err)
	}
	image, err := index.Image(v1.Hash{Algorithm: "sha256", Hex: manifest.Encoded()})
	if err != nil {
		t.Fatal(err)
	}
	return image
}

// extract unpacks the image as root with the host's tar.
func extract(t *testing.T, image v1.Image) string {
	t.Helper()
	root := t.TempDir()
	rootfs := mutate.Extract(image)
	defer rootfs.Close()
	untar(t, root, rootfs)
	return root
}

func untar(t *testing.T, root string, r io.Reader) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "tar", "--extract", "--same-owner", "--same-permissions", "--numeric-owner", "--directory", root)
	cmd.Stdin = r
	if output, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("tar: %v: %s", err, output)
	}
}

// inChroot runs a command in root, in namespaces of its own with a network that leads nowhere, and returns its output.
func inChroot(t *testing.T, root string, command ...string) string {
	t.Helper()
	arguments := append([]string{"--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc=" + filepath.Join(root, "proc"), "--", "chroot", root}, command...)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "unshare", arguments...)
	cmd.WaitDelay = time.Second
	cmd.Env = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C.UTF-8"}
	output, err := cmd.CombinedOutput()
	if err != nil {
		t.Errorf("%s: %v: %s", command, err, output)
	}
	return string(output)
}

func layerSize(t *testing.T, image v1.Image) int64 {
	t.Helper()
	layers, err := image.Layers()
	if err != nil || len(layers) != 1 {
		t.Fatalf("%d layers (%v)", len(layers), err)
	}
	size, err := layers[0].Size()
	if err != nil {
		t.Fatal(err)
	}
	return size
}

// checkDiffID compares the only layer's uncompressed bytes with what the config says.
func checkDiffID(t *testing.T, image v1.Image) {
	t.Helper()
	layers, err := image.Layers()
	if err != nil {
		t.Fatal(err)
	}
	content, err := layers[0].Uncompressed()
	if err != nil {
		t.Fatal(err)
	}
	defer content.Close()
	got, _, err := v1.SHA256(content)
	if err != nil {
		t.Fatal(err)
	}
	config, err := image.ConfigFile()
	if err != nil || len(config.RootFS.DiffIDs) != 1 || config.RootFS.DiffIDs[0] != got {
		t.Errorf("the layer unpacks to %s, its config says %v (%v)", got, config.RootFS.DiffIDs, err)
	}
}

func treeSize(t *testing.T, root string) (size int64) {
	t.Helper()
	if err := filepath.WalkDir(root, func(_ string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err == nil && info.Mode().IsRegular() {
			size += info.Size()
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
	return size
}

// processesBelow returns the processes whose root or command line lies below dir.
func processesBelow(t *testing.T, dir string) (found []string) {
	t.Helper()
	commands, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range commands {
		command, _ := os.ReadFile(name)
		root, _ := os.Readlink(filepath.Join(filepath.Dir(name), "root"))
		if strings.Contains(string(command), dir) || strings.HasPrefix(root, dir) {
			found = append(found, string(command))
		}
	}
	return found
}
