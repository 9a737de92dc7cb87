package recipes

import "slices"

// Distro is a release of a Linux distribution that nodes can be built from.
type Distro struct {
	// Name is the distribution, debian or ubuntu.
	Name string
	// Release is its number, for instance 12 or 24.04, and Codename what its package archive calls it, for instance bookworm.
	Release, Codename string
	// Image is the distribution's official image, a full reference.
	Image string
}

// distros lists for each distribution the release that is taken by default first.
var distros = []Distro{
	{"debian", "12", "bookworm", "docker.io/library/debian:12"},
	{"debian", "13", "trixie", "docker.io/library/debian:13"},
	{"ubuntu", "24.04", "noble", "docker.io/library/ubuntu:24.04"},
	{"ubuntu", "22.04", "jammy", "docker.io/library/ubuntu:22.04"},
}

// Distros returns every distribution release that nodeimg knows.
func Distros() []Distro { return slices.Clone(distros) }

// FindDistro returns the release of the distribution, for instance ("debian", "12"), and whether nodeimg knows it. With an empty
// release it returns the one that recipes get by default.
func FindDistro(name, release string) (Distro, bool) {
	i := slices.IndexFunc(distros, func(d Distro) bool { return d.Name == name && (release == "" || d.Release == release) })
	if i < 0 {
		return Distro{}, false
	}
	return distros[i], true
}
