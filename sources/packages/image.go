package packages

import (
	"archive/tar"
	"errors"
	"fmt"
	"io"
	"path"
	"slices"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
)

const (
	// largestImageFile and largestImageFiles bound what is taken out of a base image, in bytes: one file and all together.
	largestImageFile  = 32 << 20
	largestImageFiles = 64 << 20
	// mostImageFiles bounds how many files are taken.
	mostImageFiles = 1000
)

// FromImage returns the universe of packages to add to a Debian or Ubuntu image: its own apt sources, keys, preferences and dpkg
// status. Nothing of the image is written to disk. Mirrors redirects its sources as it does for Distribution.
func FromImage(image v1.Image, mirrors map[string]string) (*Universe, error) {
	config, err := image.ConfigFile()
	if err != nil {
		return nil, fmt.Errorf("reading the base image: %w", err)
	}
	arch, ok := architectures[config.Architecture]
	if !ok {
		return nil, fmt.Errorf("reading the base image: no packages are known for its architecture %q", config.Architecture)
	}
	rootfs := mutate.Extract(image)
	defer rootfs.Close()
	files, err := aptFiles(rootfs)
	if err != nil {
		return nil, fmt.Errorf("reading apt's files in the base image: %w", err)
	}
	u := &Universe{Architecture: arch, Status: files["/var/lib/dpkg/status"], Files: map[string][]byte{}, revalidation: &revalidation{}}
	if len(u.Status) == 0 {
		return nil, errors.New("reading the base image: it has no /var/lib/dpkg/status; packages can be added to images of Debian and Ubuntu only")
	}
	names := make([]string, 0, len(files))
	for name := range files {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		dir, base := path.Split(name)
		if name != "/etc/apt/sources.list" && (dir != "/etc/apt/sources.list.d/" || !strings.HasSuffix(base, ".list") && !strings.HasSuffix(base, ".sources")) {
			if name != "/var/lib/dpkg/status" {
				u.Files[name] = files[name]
			}
			continue
		}
		sources, err := parseSources(name, files[name])
		if err != nil {
			return nil, fmt.Errorf("reading the base image: %w", err)
		}
		for _, source := range sources {
			for i, uri := range source.URIs {
				source.URIs[i] = redirect(uri, mirrors)
			}
			// A file: source of the image would read the host's files.
			source.URIs = slices.DeleteFunc(source.URIs, func(uri string) bool {
				return !strings.HasPrefix(uri, "http://") && !strings.HasPrefix(uri, "https://")
			})
			// A keyring that the image does not have must not be looked for on the host.
			if _, ok := u.fileOf(files, source.SignedBy); !ok {
				return nil, fmt.Errorf("reading the base image: %s names the keyring %q, which the image does not have", name, source.SignedBy)
			}
			if len(source.URIs) > 0 {
				u.Sources = append(u.Sources, source)
			}
		}
	}
	if len(u.Sources) == 0 {
		return nil, errors.New("reading the base image: it has no apt sources over http or https to add packages from")
	}
	return u, nil
}

// fileOf looks a source's keyring up in files; keys in the source itself and the default count as found.
func (u *Universe) fileOf(files map[string][]byte, signedBy string) ([]byte, bool) {
	if signedBy == "" || strings.Contains(signedBy, "\n") {
		return nil, true
	}
	text, ok := files[signedBy]
	return text, ok
}

// isAptFile says whether resolving needs the file.
func isAptFile(name string) bool {
	switch name {
	case "/etc/apt/sources.list", "/etc/apt/preferences", "/etc/apt/trusted.gpg", "/var/lib/dpkg/status":
		return true
	}
	switch path.Dir(name) {
	case "/etc/apt/sources.list.d", "/etc/apt/preferences.d", "/etc/apt/trusted.gpg.d", "/etc/apt/keyrings", "/usr/share/keyrings":
		return true
	}
	return false
}

// aptFiles reads apt's files from the tar of an untrusted root file system into memory, by their absolute path.
func aptFiles(rootfs io.Reader) (map[string][]byte, error) {
	files, links := map[string][]byte{}, map[string]string{}
	var total int64
	for archive := tar.NewReader(rootfs); ; {
		header, err := archive.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			return nil, err
		}
		name := path.Clean("/" + header.Name)
		if !isAptFile(name) {
			continue
		}
		switch header.Typeflag {
		case tar.TypeReg:
			if total += header.Size; header.Size > largestImageFile || total > largestImageFiles || len(files) >= mostImageFiles {
				return nil, fmt.Errorf("%s: apt's files are larger than the %d MiB that are reasonable", name, largestImageFiles>>20)
			}
			if files[name], err = io.ReadAll(archive); err != nil {
				return nil, err
			}
		case tar.TypeSymlink:
			if path.IsAbs(header.Linkname) {
				links[name] = path.Clean(header.Linkname)
			} else {
				links[name] = path.Join(path.Dir(name), header.Linkname)
			}
		case tar.TypeLink:
			links[name] = path.Clean("/" + header.Linkname)
		}
		if len(links) > mostImageFiles {
			return nil, fmt.Errorf("%s: more than %d links", name, mostImageFiles)
		}
	}
	// mutate.Extract ends the archive properly before it reports an error, that of a wrong layer digest for instance.
	if _, err := io.Copy(io.Discard, rootfs); err != nil {
		return nil, err
	}
	for name, target := range links {
		// Some chains are two links long; none needs more.
		for range 4 {
			if text, ok := files[target]; ok {
				files[name] = text
				break
			}
			target = links[target]
		}
	}
	return files, nil
}
