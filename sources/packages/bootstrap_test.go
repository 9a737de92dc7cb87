package packages_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/v1/validate"
	"github.com/opencontainers/go-digest"
	"golang.org/x/sync/errgroup"

	"github.com/nodeimg/nodeimg/internal/cache"
	"github.com/nodeimg/nodeimg/recipes"
	"github.com/nodeimg/nodeimg/sources/packages"
)

func TestBootstrap(t *testing.T) {
	host := hostDistribution(t)
	u, err := packages.Distribution(host.distro, host.codename, platform, nil)
	if err != nil {
		t.Fatal(err)
	}
	start := time.Now()
	locked, err := u.Resolve(t.Context(), sharedCache(t), nodePackages)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%d packages resolved in %s", len(locked), time.Since(start))
	var digests [2]digest.Digest
	var caches [2]*cache.Cache
	for i := range caches {
		caches[i] = privateCache(t, locked)
	}
	var group errgroup.Group
	for i, c := range caches {
		group.Go(func() (err error) {
			start := time.Now()
			digests[i], err = packages.Bootstrap(t.Context(), c, u, host.codename, locked, epoch)
			t.Logf("bootstrapped in %s", time.Since(start))
			return err
		})
	}
	if err := group.Wait(); err != nil {
		t.Fatal(err)
	}
	c := caches[1]
	if digests[0] != digests[1] {
		t.Errorf("the same packages became %s and %s", digests[0], digests[1])
	}
	start = time.Now()
	if again, err := packages.Bootstrap(t.Context(), c, u, host.codename, locked, epoch); err != nil || again != digests[1] {
		t.Errorf("the second time gave %s (%v)", again, err)
	}
	t.Logf("answered from the cache in %s", time.Since(start))
	if left, err := os.ReadDir(filepath.Join(c.Root(), "bootstrap")); err != nil || len(left) > 0 {
		t.Errorf("left over: %v (%v)", left, err)
	}

	image := cachedImage(t, c, digests[0])
	// The whole validation knows gzip only.
	if err := validate.Image(image, validate.Fast); err != nil {
		t.Error(err)
	}
	checkDiffID(t, image)
	config, err := image.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	if config.Architecture != runtime.GOARCH || config.OS != "linux" || !config.Created.Equal(epoch) {
		t.Errorf("config says %s/%s of %s", config.OS, config.Architecture, config.Created)
	}
	root := extract(t, image)
	t.Logf("%d bytes of layer, %d bytes unpacked", layerSize(t, image), treeSize(t, root))
	for _, command := range [][]string{
		{"/bin/true"}, {"systemctl", "--version"},
		// Not as PID 1, as which it would set up a system and freeze.
		{"sh", "-c", "/lib/systemd/systemd --version; exit"},
		{"dpkg", "--audit"}, {"iptables", "--version"},
	} {
		inChroot(t, root, command...)
	}
	installed := map[string]string{}
	for line := range strings.Lines(inChroot(t, root, "dpkg-query", "-W", "-f", "${Package} ${Version} ${db:Status-Status}\\n")) {
		if fields := strings.Fields(line); len(fields) == 3 && fields[2] == "installed" {
			installed[fields[0]] = fields[1]
		}
	}
	for _, p := range locked {
		if installed[p.Name] != p.Version {
			t.Errorf("%s %s is locked, %q is installed", p.Name, p.Version, installed[p.Name])
		}
		delete(installed, p.Name)
	}
	if len(installed) > 0 {
		t.Errorf("installed but not locked: %v", installed)
	}
	for name, want := range map[string]string{"etc/machine-id": "", "etc/apt/sources.list": u.SourceList()} {
		if got, err := os.ReadFile(filepath.Join(root, name)); err != nil || string(got) != want {
			t.Errorf("/%s is %q (%v), want %q", name, got, err, want)
		}
	}
	for _, name := range []string{"etc/resolv.conf", "etc/hostname", "etc/apt/sources.list.d/*", "var/cache/apt/*.bin", "var/cache/apt/archives/*.deb", "var/lib/apt/lists/*_*", "var/log/*.log", "usr/share/man/man*", "usr/share/locale/*/LC_MESSAGES", "etc/ssh/ssh_host*"} {
		if found, _ := filepath.Glob(filepath.Join(root, name)); len(found) > 0 {
			t.Errorf("the image holds %s", found)
		}
	}
	for _, name := range []string{"bin", "lib", "sbin"} {
		if target, err := os.Readlink(filepath.Join(root, name)); err != nil || target != "usr/"+name {
			t.Errorf("/%s is %q (%v)", name, target, err)
		}
	}
	for _, name := range []string{"dev", "proc", "sys", "run", "tmp", "usr/share/doc/libc6/copyright", "usr/bin/nsenter"} {
		if _, err := os.Stat(filepath.Join(root, name)); err != nil {
			t.Error(err)
		}
	}
}

func TestBootstrapEndsWithItsContext(t *testing.T) {
	host := hostDistribution(t)
	u, err := packages.Distribution(host.distro, host.codename, platform, nil)
	if err != nil {
		t.Fatal(err)
	}
	locked, err := u.Resolve(t.Context(), sharedCache(t), []string{"bash"})
	if err != nil {
		t.Fatal(err)
	}
	c := privateCache(t, locked)
	ctx, cancel := context.WithCancelCause(t.Context())
	defer cancel(nil)
	// The moment the chroot's dpkg runs is when most is mounted.
	go func() {
		for ctx.Err() == nil {
			if found, _ := filepath.Glob(filepath.Join(c.Root(), "bootstrap/*/tmp/*/var/lib/dpkg/status")); len(found) > 0 {
				cancel(errors.New("the user had enough"))
			}
			time.Sleep(20 * time.Millisecond)
		}
	}()
	_, err = packages.Bootstrap(ctx, c, u, host.codename, locked, epoch)
	if err == nil || !strings.Contains(err.Error(), "the user had enough") {
		t.Fatalf("got %v", err)
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil || strings.Contains(string(mounts), c.Root()) {
		t.Errorf("still mounted (%v)", err)
	}
	if left, err := os.ReadDir(filepath.Join(c.Root(), "bootstrap")); err != nil || len(left) > 0 {
		t.Errorf("left over: %v (%v)", left, err)
	}
	if processes := processesBelow(t, c.Root()); len(processes) > 0 {
		t.Errorf("still running: %v", processes)
	}
}

func TestBootstrapSaysWhatIsMissing(t *testing.T) {
	host := hostDistribution(t)
	u, err := packages.Distribution(host.distro, host.codename, platform, nil)
	if err != nil {
		t.Fatal(err)
	}
	empty, err := cache.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	p := recipes.LockedPackage{Name: "bash", Version: "1", Architecture: u.Architecture, Digest: digest.FromString("bash").String()}
	_, err = packages.Bootstrap(t.Context(), empty, u, host.codename, []recipes.LockedPackage{p}, epoch)
	if err == nil || !strings.Contains(err.Error(), "fetch it first") {
		t.Errorf("without the package: %v", err)
	}
	if _, err := empty.PutBytes([]byte("bash")); err != nil {
		t.Fatal(err)
	}
	if _, err = packages.Bootstrap(t.Context(), empty, u, host.codename, []recipes.LockedPackage{p}, epoch); err == nil || !strings.Contains(err.Error(), "dpkg-deb") {
		t.Errorf("with a broken package: %v", err)
	}
	t.Setenv("PATH", t.TempDir())
	if _, err = packages.Bootstrap(t.Context(), empty, u, host.codename, []recipes.LockedPackage{p}, epoch); err == nil || !strings.Contains(err.Error(), "install the package dpkg") {
		t.Errorf("without dpkg: %v", err)
	}
}
