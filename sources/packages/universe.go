package packages

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"

	"github.com/nodeimg/nodeimg/internal/fetch"
	"github.com/nodeimg/nodeimg/recipes"
)

// Universe is what packages are resolved in: signed sources, the keys to trust and what is already installed.
type Universe struct {
	// Architecture in dpkg's words, for instance amd64.
	Architecture string
	// Sources to take packages from.
	Sources []Source
	// Status is the dpkg status of what is already installed; empty for a new root file system.
	Status []byte
	// Files are the keyrings and apt preferences by absolute path, where they do not lie on the host.
	Files map[string][]byte
	// bootstrap says that the essential packages belong to every resolution.
	bootstrap bool
	// revalidation is shared with the universe's Empty one, which has the same sources.
	revalidation *revalidation
}

// Empty returns the universe with nothing installed and nothing essential, for a closure that stands alone.
func (u *Universe) Empty() *Universe {
	empty := *u
	empty.Status, empty.bootstrap = nil, false
	return &empty
}

// SourceList returns the sources in apt's one-line format as the image's /etc/apt/sources.list, without credentials.
func (u *Universe) SourceList() string {
	var b strings.Builder
	for _, source := range u.Sources {
		for _, uri := range source.URIs {
			for _, suite := range source.Suites {
				fmt.Fprintf(&b, "deb %s %s %s\n", fetch.Redact(uri), suite, strings.Join(source.Components, " "))
			}
		}
	}
	return b.String()
}

// architectures maps Go's names to dpkg's.
var architectures = map[string]string{"amd64": "amd64", "arm64": "arm64", "arm": "armhf", "ppc64le": "ppc64el", "s390x": "s390x", "riscv64": "riscv64"}

// Distribution returns the universe of a new root file system of distro (debian or ubuntu) with codename, for instance bookworm. The
// archive is mirrors["debian"] (and mirrors["debian-security"]) or mirrors["ubuntu"]; without them what this host's own apt uses
// for the same codename. The keyring is the host's. Platform is os/arch and must be the host's own, because
// the packages' scripts run.
func Distribution(distro, codename, platform string, mirrors map[string]string) (*Universe, error) {
	return distribution("/", distro, codename, platform, mirrors)
}

// distribution is Distribution with the host's root at root.
func distribution(root, distro, codename, platform string, mirrors map[string]string) (*Universe, error) {
	arch, err := hostArchitecture(platform)
	if err != nil {
		return nil, err
	}
	host, err := hostSources(root)
	if err != nil {
		return nil, err
	}
	keyring, keyringErr := findKeyring(root, distro)
	u := &Universe{Architecture: arch, bootstrap: true, revalidation: &revalidation{}}
	for _, source := range wanted(host, distro, codename) {
		for i, uri := range source.URIs {
			source.URIs[i] = redirect(uri, mirrors)
		}
		if source.SignedBy == "" {
			source.SignedBy = keyring
		}
		u.Sources = append(u.Sources, source)
	}
	if mirror, ok := mirrors[distro]; ok {
		// The mirror stands for the whole archive, whichever suites the host happens to use.
		u.Sources = mirrorSources(distro, codename, strings.TrimRight(mirror, "/"), keyring, mirrors)
	}
	if len(u.Sources) == 0 {
		return nil, recipes.InputErrorf(
			"base.from packages: no mirror of %s %s is known: this host's apt sources have none; set mirrors: {%s: URL} in the recipe", distro, codename, distro)
	}
	for _, source := range u.Sources {
		if source.SignedBy == "" {
			return nil, keyringErr
		}
	}
	return u, nil
}

func hostArchitecture(platform string) (string, error) {
	if platform != "linux/"+runtime.GOARCH {
		return "", recipes.InputErrorf(
			"base.from packages: bootstrapping %s on a linux/%s host is not supported yet; build on a host of that platform, or use base.from: image", platform, runtime.GOARCH)
	}
	return architectures[runtime.GOARCH], nil
}

// hostSources reads the apt sources of the host whose root lies at root.
func hostSources(root string) ([]Source, error) {
	names := []string{filepath.Join(root, "etc/apt/sources.list")}
	for _, pattern := range []string{"*.list", "*.sources"} {
		more, err := filepath.Glob(filepath.Join(root, "etc/apt/sources.list.d", pattern))
		if err != nil {
			return nil, fmt.Errorf("reading the host's apt sources: %w", err)
		}
		names = append(names, more...)
	}
	var sources []Source
	for _, name := range names {
		text, err := os.ReadFile(name)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("reading the host's apt sources: %w", err)
		}
		more, err := parseSources(name, text)
		if err != nil {
			return nil, err
		}
		sources = append(sources, more...)
	}
	return sources, nil
}

// wanted returns those sources that serve the distribution's own archive for codename: the release, its updates and its security updates.
func wanted(sources []Source, distro, codename string) []Source {
	suites := []string{codename, codename + "-updates", codename + "-security", codename + "/updates"}
	var result []Source
	for _, source := range sources {
		key := filepath.Base(source.SignedBy)
		own := source.SignedBy == "" || strings.Contains(source.SignedBy, "\n") || strings.HasPrefix(key, distro+"-archive")
		if !own || !slices.Contains(source.Components, "main") {
			continue
		}
		source.URIs = slices.DeleteFunc(slices.Clone(source.URIs), func(uri string) bool {
			return !strings.HasPrefix(archive(uri), distro) || !strings.HasPrefix(uri, "http")
		})
		source.Suites = slices.DeleteFunc(slices.Clone(source.Suites), func(suite string) bool { return !slices.Contains(suites, strings.TrimRight(suite, "/")) })
		source.Components = slices.DeleteFunc(slices.Clone(source.Components), func(component string) bool {
			return component != "main" && component != "universe"
		})
		if len(source.URIs) > 0 && len(source.Suites) > 0 {
			result = append(result, source)
		}
	}
	return result
}

// mirrorSources lays out the archive of a distribution at mirror. Debian keeps security updates in an archive of its own, by convention
// beside the main one.
func mirrorSources(distro, codename, mirror, keyring string, mirrors map[string]string) []Source {
	if distro != "debian" {
		return []Source{{URIs: []string{mirror}, Suites: []string{codename, codename + "-updates", codename + "-security"}, Components: []string{"main", "universe"}, SignedBy: keyring}}
	}
	security, ok := mirrors["debian-security"]
	if !ok {
		security = strings.TrimSuffix(mirror, "/debian") + "/debian-security"
	}
	return []Source{
		{URIs: []string{mirror}, Suites: []string{codename, codename + "-updates"}, Components: []string{"main"}, SignedBy: keyring},
		{URIs: []string{strings.TrimRight(security, "/")}, Suites: []string{codename + "-security"}, Components: []string{"main"}, SignedBy: keyring},
	}
}

func findKeyring(root, distro string) (string, error) {
	for _, extension := range []string{"gpg", "pgp"} {
		name := filepath.Join(root, fmt.Sprintf("usr/share/keyrings/%s-archive-keyring.%s", distro, extension))
		if _, err := os.Stat(name); err == nil {
			return name, nil
		}
	}
	return "", fmt.Errorf("finding the keys of %s: no /usr/share/keyrings/%s-archive-keyring.gpg on this host; install the package %s",
		distro, distro, map[string]string{"debian": "debian-archive-keyring", "ubuntu": "ubuntu-keyring"}[distro])
}

// sourceFile returns the universe's sources in apt's deb822 format, with keyrings from below root where Files has them.
func (u *Universe) sourceFile(root string) string {
	var b strings.Builder
	for _, source := range u.Sources {
		b.WriteString(source.deb822(func(name string) string {
			if _, ok := u.Files[name]; ok {
				return filepath.Join(root, name)
			}
			return name
		}))
	}
	return b.String()
}

// key names the folder that keeps the universe's package lists.
func (u *Universe) key() string {
	d := digest.SHA256.Digester()
	fmt.Fprintf(d.Hash(), "%s\n%s\n", u.Architecture, u.sourceFile("/"))
	for _, name := range slices.Sorted(maps.Keys(u.Files)) {
		fmt.Fprintf(d.Hash(), "%s %s\n", name, digest.FromBytes(u.Files[name]))
	}
	return d.Digest().Encoded()[:16]
}
