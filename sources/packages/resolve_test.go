package packages_test

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/opencontainers/go-digest"

	"github.com/nodeimg/nodeimg/internal/cache"
	"github.com/nodeimg/nodeimg/internal/fetch"
	"github.com/nodeimg/nodeimg/recipes"
	"github.com/nodeimg/nodeimg/sources/packages"
)

func hostUniverse(t *testing.T, mirrors map[string]string) *packages.Universe {
	t.Helper()
	host := hostDistribution(t)
	u, err := packages.Distribution(host.distro, host.codename, platform, mirrors)
	if err != nil {
		t.Fatal(err)
	}
	return u
}

func TestResolveAndFetch(t *testing.T) {
	u := hostUniverse(t, nil)
	c := askingCache(t, u)
	locked, err := u.Resolve(t.Context(), c, nodePackages)
	if err != nil {
		t.Fatal(err)
	}
	byName := map[string]recipes.LockedPackage{}
	for _, p := range locked {
		byName[p.Name] = p
		if d := digest.Digest(p.Digest); d.Validate() != nil || p.Size <= 0 || p.Version == "" || p.Architecture != u.Architecture && p.Architecture != "all" || !strings.HasPrefix(p.URL, "http") {
			t.Errorf("incomplete: %+v", p)
		}
	}
	for _, name := range append([]string{"dpkg", "apt", "libc6", "base-files"}, nodePackages...) {
		if _, ok := byName[name]; !ok {
			t.Errorf("%s is missing", name)
		}
	}
	for _, name := range []string{"perl", "usrmerge"} {
		if _, ok := byName[name]; ok {
			t.Errorf("%s is not needed", name)
		}
	}
	// Versions with an epoch are escaped in apt's output.
	if version := byName["kmod"].Version + byName["procps"].Version; strings.Contains(version, "%") || !strings.Contains(version, ":") {
		t.Errorf("versions %s", version)
	}
	again, err := hostUniverse(t, nil).Resolve(t.Context(), c, nodePackages)
	if err != nil || !slices.Equal(locked, again) {
		t.Errorf("the second time gave something else (%v)", err)
	}
	for _, other := range [][]string{nodePackages[:3], append(slices.Clone(nodePackages), "gdb")} {
		if again, err := hostUniverse(t, nil).Resolve(t.Context(), c, other); err != nil || slices.Equal(locked, again) {
			t.Errorf("with other packages the answer is the same (%v)", err)
		}
	}
	if again, err := hostUniverse(t, nil).Empty().Resolve(t.Context(), c, nodePackages); err != nil || slices.Equal(locked, again) {
		t.Errorf("without the essential packages the answer is the same (%v)", err)
	}

	fresh, err := cache.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	some := []recipes.LockedPackage{byName["netbase"], byName["hostname"], byName["kmod"]}
	if err := packages.Fetch(t.Context(), &fetch.Client{Cache: fresh}, some); err != nil {
		t.Fatal(err)
	}
	for _, p := range some {
		if size, err := fresh.Size(digest.Digest(p.Digest)); err != nil || size != p.Size {
			t.Errorf("%s has %d bytes (%v)", p.Name, size, err)
		}
	}
	some[1].Digest = digest.FromString("another").String()
	if err := packages.Fetch(t.Context(), &fetch.Client{Cache: fresh}, some); err == nil || !strings.Contains(err.Error(), "package hostname") || !strings.Contains(err.Error(), "digest mismatch") {
		t.Errorf("a wrong digest: %v", err)
	}
}

func TestResolveBadNames(t *testing.T) {
	u, c := hostUniverse(t, nil), sharedCache(t)
	for name, want := range map[string]string{
		"no-such-package-anywhere": `no package "no-such-package-anywhere"`,
		"--help":                   "not the name of a package",
		"?essential":               "not the name of a package",
		"systemd-":                 "not the name of a package",
		"bash/stable":              "not the name of a package",
		"Bash":                     "not the name of a package",
		"":                         "not the name of a package",
	} {
		var input *recipes.InputError
		if _, err := u.Resolve(t.Context(), c, []string{"bash", name}); !errors.As(err, &input) || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v", name, err)
		}
	}
}

func TestMirrorOfTheArchive(t *testing.T) {
	host := hostDistribution(t)
	server := httptest.NewServer(http.NotFoundHandler())
	defer server.Close()
	mirror := strings.Replace(server.URL, "://", "://user:secret@", 1) + "/debian/"
	u, err := packages.Distribution("debian", host.codename, platform, map[string]string{"debian": mirror})
	if err != nil {
		t.Fatal(err)
	}
	list := u.SourceList()
	for _, want := range []string{server.URL + "/debian " + host.codename + " main\n", server.URL + "/debian " + host.codename + "-updates main\n", server.URL + "/debian-security " + host.codename + "-security main\n"} {
		if !strings.Contains(list, want) {
			t.Errorf("no %q in\n%s", want, list)
		}
	}
	c, err := cache.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	_, err = u.Resolve(t.Context(), c, []string{"bash"})
	if err == nil || !strings.Contains(err.Error(), server.URL+"/debian") || !strings.Contains(err.Error(), "mirrors") || strings.Contains(err.Error()+list, "secret") {
		t.Errorf("got %v", err)
	}
}

func TestDistributionThatTheHostDoesNotServe(t *testing.T) {
	var input *recipes.InputError
	if _, err := packages.Distribution("ubuntu", "nowhere", platform, nil); !errors.As(err, &input) || !strings.Contains(err.Error(), "set mirrors: {ubuntu: URL}") {
		t.Errorf("got %v", err)
	}
	if _, err := packages.Distribution("debian", hostDistribution(t).codename, "linux/s390x", nil); !errors.As(err, &input) || !strings.Contains(err.Error(), "not supported yet") {
		t.Errorf("got %v", err)
	}
}

// image makes one of a layer with the files; a value that begins with "->" is a symbolic link.
func image(t *testing.T, architecture string, files map[string]string) v1.Image {
	t.Helper()
	var layer bytes.Buffer
	archive := tar.NewWriter(&layer)
	for name, text := range files {
		header := &tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o644, Size: int64(len(text))}
		if target, ok := strings.CutPrefix(text, "->"); ok {
			header.Typeflag, header.Linkname, header.Size, text = tar.TypeSymlink, target, 0, ""
		}
		if err := archive.WriteHeader(header); err != nil {
			t.Fatal(err)
		}
		if _, err := archive.Write([]byte(text)); err != nil {
			t.Fatal(err)
		}
	}
	if err := archive.Close(); err != nil {
		t.Fatal(err)
	}
	image, err := mutate.AppendLayers(empty.Image, static.NewLayer(layer.Bytes(), types.OCIUncompressedLayer))
	if err != nil {
		t.Fatal(err)
	}
	config, err := image.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	config = config.DeepCopy()
	config.Architecture, config.OS = architecture, "linux"
	if image, err = mutate.ConfigFile(image, config); err != nil {
		t.Fatal(err)
	}
	return image
}

// debianImage has the host's own sources, key and the netbase of the world as its only installed package.
func debianImage(t *testing.T, architecture string, more map[string]string) v1.Image {
	t.Helper()
	host := hostUniverse(t, nil)
	files := map[string]string{
		"var/lib/dpkg/status":                           "Package: netbase\nStatus: install ok installed\nVersion: 999\nArchitecture: all\nMaintainer: x\nDescription: x\n\n",
		"usr/share/keyrings/debian-archive-keyring.gpg": "->./debian-archive-keyring.pgp",
	}
	key, err := os.ReadFile(host.Sources[0].SignedBy)
	if err != nil {
		t.Fatal(err)
	}
	files["usr/share/keyrings/debian-archive-keyring.pgp"] = string(key)
	var sources strings.Builder
	for _, source := range host.Sources {
		fmt.Fprintf(&sources, "Types: deb deb-src\n# a comment\nURIs: %s\nSuites: %s\nComponents: %s\nSigned-By: /usr/share/keyrings/debian-archive-keyring.gpg\n\n",
			strings.Join(source.URIs, " "), strings.Join(source.Suites, " "), strings.Join(source.Components, " "))
	}
	files["etc/apt/sources.list.d/debian.sources"] = sources.String()
	for name, text := range more {
		files[name] = text
	}
	return image(t, architecture, files)
}

func TestFromImage(t *testing.T) {
	for _, architecture := range []string{"amd64", "arm64"} {
		u, err := packages.FromImage(debianImage(t, architecture, map[string]string{
			"etc/apt/preferences.d/pin": "Package: *\nPin: release a=now\nPin-Priority: 1\n",
			"etc/apt/sources.list":      "# nothing but\ndeb file:/srv/secret ./\ndeb-src http://127.0.0.1:1/x y z\n",
		}), nil)
		if err != nil {
			t.Fatal(err)
		}
		locked, err := u.Resolve(t.Context(), askingCache(t, u), []string{"conntrack", "netbase"})
		if err != nil {
			t.Fatal(err)
		}
		var names []string
		for _, p := range locked {
			names = append(names, p.Name)
			if p.Architecture != architecture && p.Architecture != "all" {
				t.Errorf("%s is for %s", p.Name, p.Architecture)
			}
		}
		if !slices.Contains(names, "conntrack") || !slices.Contains(names, "libc6") || slices.Contains(names, "netbase") || slices.Contains(names, "dpkg") {
			t.Errorf("resolved %s", names)
		}
	}
}

func TestFromImageMirrors(t *testing.T) {
	u, err := packages.FromImage(debianImage(t, "amd64", nil), map[string]string{"debian": "http://127.0.0.1:1/d", "debian-security": "http://127.0.0.1:1/s"})
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(u.SourceList()) {
		want := "http://127.0.0.1:1/d"
		if strings.Contains(line, "-security") {
			want = "http://127.0.0.1:1/s"
		}
		if strings.Fields(line)[1] != want {
			t.Errorf("%q should be at %s", line, want)
		}
	}
}

func TestFromImageRefuses(t *testing.T) {
	for _, test := range []struct {
		name  string
		image v1.Image
		want  string
	}{
		{"no dpkg", image(t, "amd64", map[string]string{"etc/os-release": "ID=alpine"}), "Debian and Ubuntu only"},
		{"unknown architecture", image(t, "mips", nil), "mips"},
		{"no sources", image(t, "amd64", map[string]string{"var/lib/dpkg/status": "Package: x\n"}), "no apt sources"},
		{"a keyring of the host", image(t, "amd64", map[string]string{
			"var/lib/dpkg/status": "Package: x\n", "etc/apt/sources.list": "deb [signed-by=/usr/share/keyrings/debian-archive-removed-keys.gpg] http://127.0.0.1:1/debian x main\n",
		}), "which the image does not have"},
		{"a malformed source", image(t, "amd64", map[string]string{"var/lib/dpkg/status": "Package: x\n", "etc/apt/sources.list": "\ndep http://127.0.0.1:1/debian x main\n"}), "sources.list:2"},
		{"a path that leaves the image", image(t, "amd64", map[string]string{"var/lib/dpkg/status": "Package: x\n", "../../etc/apt/preferences": "x"}), "unsafe tar path"},
		{"a huge file", image(t, "amd64", map[string]string{"var/lib/dpkg/status": strings.Repeat("x", 33<<20)}), "larger than"},
	} {
		t.Run(test.name, func(t *testing.T) {
			if _, err := packages.FromImage(test.image, nil); err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("got %v", err)
			}
		})
	}
}

// An image whose archive is signed by someone else must not be believed, whatever its sources say.
func TestUnsignedArchiveIsRefused(t *testing.T) {
	release := "Origin: x\nSuite: x\nCodename: x\nDate: Thu, 01 Jan 2026 00:00:00 UTC\nComponents: main\nArchitectures: amd64\nSHA256:\n"
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if filepath.Base(r.URL.Path) == "Release" {
			fmt.Fprint(w, release)
			return
		}
		http.NotFound(w, r)
	}))
	defer server.Close()
	u, err := packages.FromImage(image(t, "amd64", map[string]string{
		"var/lib/dpkg/status": "Package: x\n", "etc/apt/sources.list": "deb [trusted=yes] " + server.URL + "/debian x main\n",
	}), nil)
	if err != nil {
		t.Fatal(err)
	}
	c, err := cache.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := u.Resolve(t.Context(), c, []string{"bash"}); err == nil || !strings.Contains(err.Error(), "not signed") {
		t.Errorf("got %v", err)
	}
}
