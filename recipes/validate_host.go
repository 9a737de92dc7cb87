package recipes

import (
	"fmt"
	"maps"
	"net/url"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/nodeimg/nodeimg/internal/strictyaml"
)

func checkImages(c *checker) {
	first := map[ImageSource]int{}
	for i, image := range c.Preload.Images {
		field := fmt.Sprintf("spec.preload.images[%d]", i)
		set := image.set()
		if len(set) != 1 {
			names := make([]string, len(set))
			for j, f := range set {
				names[j] = f.name
			}
			found := "none of them"
			if len(names) > 0 {
				found = strings.Join(names, " and ")
			}
			c.report.Add(field, "found %s, expected exactly one of registry, archive, docker or layout", found)
			continue
		}
		checkImage(c, field, image, set[0])
		if j, again := first[image]; again {
			c.report.Add(field, "found %s again, it is already spec.preload.images[%d]; remove one of them", strictyaml.Quote(set[0].value), j)
			continue
		}
		first[image] = i
	}
}

// checkImage looks at one image, whose place is the one field of it that is set.
func checkImage(c *checker, field string, image ImageSource, place namedValue) {
	switch place.name {
	case "registry", "docker":
		if _, err := NormalizeReference(place.value); err != nil {
			c.report.Add(field, "%v", err)
		}
		if image.Name != "" {
			c.report.Add(field+".name", "found %s beside %s, which names its image already; name goes with archive or layout", strictyaml.Quote(image.Name), place.name)
		}
		return
	case "archive":
		if image.isPattern(c.dir) {
			if _, err := image.Expand(c.dir); err != nil {
				c.report.Add(field, "%v", err)
			}
			if image.Name != "" {
				c.report.Add(field+".name", "found %s beside a pattern, expected no name: all images of the archives are taken", strictyaml.Quote(image.Name))
			}
			return
		}
		c.report.HostPath(field, c.dir, place.value, strictyaml.RegularFile)
	case "layout":
		if c.report.HostPath(field, c.dir, place.value, strictyaml.Directory) {
			if _, err := os.Stat(filepath.Join(hostPath(c.dir, place.value), "oci-layout")); err != nil {
				c.report.Add(field, "found %s, which is no OCI image layout: it holds no file named oci-layout", strictyaml.Quote(place.value))
			}
		}
	}
	if image.Name == "" {
		return
	}
	if _, err := NormalizeReference(image.Name); err != nil {
		c.report.Add(field+".name", "%v", err)
	}
}

// packageName is what Debian Policy 5.6.1 allows.
var packageName = regexp.MustCompile(`^[a-z0-9][a-z0-9+.-]+$`)

func checkPackages(c *checker) {
	c.report.Repeated("spec.packages", c.Packages)
	for i, name := range c.Packages {
		if packageName.MatchString(name) {
			continue
		}
		hint := ""
		if bare, _, versioned := strings.Cut(name, "="); versioned && packageName.MatchString(bare) {
			hint = fmt.Sprintf("; write only %s, the lock pins the version", bare)
		} else if lower := strings.ToLower(name); packageName.MatchString(lower) {
			hint = fmt.Sprintf("; did you mean %s?", lower)
		}
		c.report.Add(fmt.Sprintf("spec.packages[%d]", i), "found %s, expected a package name such as jq%s", strictyaml.Quote(name), hint)
	}
}

var fileMode = regexp.MustCompile(`^[0-7]?[0-7]{3}$`)

// volatile are the places in a node that the kernel or systemd mounts over when it boots.
var volatile = []string{"/proc", "/sys", "/dev", "/run", "/tmp"}

func checkFiles(c *checker) {
	targets := map[string]int{}
	for i, f := range c.Files {
		field := fmt.Sprintf("spec.files[%d]", i)
		first, again := targets[f.Target]
		if !again {
			targets[f.Target] = i
		}
		if f.Source == "" {
			c.report.Add(field+".source", "found nothing, expected a file or directory on the host")
		} else {
			c.report.HostPath(field+".source", c.dir, f.Source, strictyaml.Anything)
		}
		switch mount := slices.IndexFunc(volatile, func(dir string) bool { return f.Target == dir || strings.HasPrefix(f.Target, dir+"/") }); {
		case !path.IsAbs(f.Target):
			c.report.Add(field+".target", "found %s, expected an absolute path in the node, such as /etc/motd", strictyaml.Quote(f.Target))
		case f.Target == "/":
			c.report.Add(field+".target", "found /, expected the path that the copy gets, such as /etc/motd")
		case path.Clean(f.Target) != f.Target:
			c.report.Add(field+".target", "found %s, expected a path without detours; did you mean %s?", strictyaml.Quote(f.Target), path.Clean(f.Target))
		case mount >= 0:
			c.report.Add(field+".target", "found %s, which the running node hides: it mounts something over %s; expected another place",
				strictyaml.Quote(f.Target), volatile[mount])
		case again:
			c.report.Add(field+".target", "found %s again, it is already the target of spec.files[%d]", strictyaml.Quote(f.Target), first)
		}
		if f.Mode != "" && !fileMode.MatchString(f.Mode) {
			c.report.Add(field+".mode", "found %s, expected an octal mode in quotes, such as \"0755\"", strictyaml.Quote(f.Mode))
		}
	}
}

// distroMirrors are the mirror keys that stand for a distribution's package archive, whatever its host.
var distroMirrors = []string{"debian", "debian-security", "ubuntu"}

var hostPort = regexp.MustCompile(`^[a-z0-9]([a-z0-9.-]*[a-z0-9])?(:[0-9]{1,5})?$`)

func checkMirrors(c *checker) {
	for _, host := range slices.Sorted(maps.Keys(c.Mirrors)) {
		field := "spec.mirrors[" + host + "]"
		checkMirrorHost(c, field, host)
		c.report.MirrorURL(field, c.Mirrors[host])
	}
}

func checkMirrorHost(c *checker, field, host string) {
	u, err := url.Parse(host)
	switch {
	case err == nil && u.Host != "" && hostPort.MatchString(u.Host):
		c.report.Add(field, "found %s as the host to replace, expected the host alone; did you mean %s?", strictyaml.Quote(host), u.Host)
	case !hostPort.MatchString(host):
		c.report.Add(field, "found %s as the host to replace, expected a host such as registry.k8s.io", strictyaml.Quote(host))
	case !strings.ContainsAny(host, ".:") && host != "localhost" && !slices.Contains(distroMirrors, host):
		c.report.Add(field, "found %s as the host to replace, expected a host such as registry.k8s.io, or %s%s",
			strictyaml.Quote(host), strictyaml.OneOf(distroMirrors), strictyaml.DidYouMean(host, distroMirrors))
	}
}

func checkCACertificates(c *checker) {
	c.report.Certificates("spec.caCertificates", c.dir, c.CACertificates)
}
