package recipes

import (
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net/url"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
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
			c.report(field, "found %s, expected exactly one of registry, archive, docker or layout", found)
			continue
		}
		checkImage(c, field, image, set[0])
		if j, again := first[image]; again {
			c.report(field, "found %s again, it is already spec.preload.images[%d]; remove one of them", quote(set[0].value), j)
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
			c.report(field, "%v", err)
		}
		if image.Name != "" {
			c.report(field+".name", "found %s beside %s, which names its image already; name goes with archive or layout", quote(image.Name), place.name)
		}
		return
	case "archive":
		if image.isPattern(c.dir) {
			if _, err := image.Expand(c.dir); err != nil {
				c.report(field, "%v", err)
			}
			if image.Name != "" {
				c.report(field+".name", "found %s beside a pattern, expected no name: all images of the archives are taken", quote(image.Name))
			}
			return
		}
		checkHostPath(c, field, place.value, regularFile)
	case "layout":
		if checkHostPath(c, field, place.value, directory) {
			if _, err := os.Stat(filepath.Join(hostPath(c.dir, place.value), "oci-layout")); err != nil {
				c.report(field, "found %s, which is no OCI image layout: it holds no file named oci-layout", quote(place.value))
			}
		}
	}
	if image.Name == "" {
		return
	}
	if _, err := NormalizeReference(image.Name); err != nil {
		c.report(field+".name", "%v", err)
	}
}

// packageName is what Debian Policy 5.6.1 allows.
var packageName = regexp.MustCompile(`^[a-z0-9][a-z0-9+.-]+$`)

func checkPackages(c *checker) {
	reportRepeated(c, "spec.packages", c.Packages)
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
		c.report(fmt.Sprintf("spec.packages[%d]", i), "found %s, expected a package name such as jq%s", quote(name), hint)
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
			c.report(field+".source", "found nothing, expected a file or directory on the host")
		} else {
			checkHostPath(c, field+".source", f.Source, anything)
		}
		switch mount := slices.IndexFunc(volatile, func(dir string) bool { return f.Target == dir || strings.HasPrefix(f.Target, dir+"/") }); {
		case !path.IsAbs(f.Target):
			c.report(field+".target", "found %s, expected an absolute path in the node, such as /etc/motd", quote(f.Target))
		case f.Target == "/":
			c.report(field+".target", "found /, expected the path that the copy gets, such as /etc/motd")
		case path.Clean(f.Target) != f.Target:
			c.report(field+".target", "found %s, expected a path without detours; did you mean %s?", quote(f.Target), path.Clean(f.Target))
		case mount >= 0:
			c.report(field+".target", "found %s, which the running node hides: it mounts something over %s; expected another place",
				quote(f.Target), volatile[mount])
		case again:
			c.report(field+".target", "found %s again, it is already the target of spec.files[%d]", quote(f.Target), first)
		}
		if f.Mode != "" && !fileMode.MatchString(f.Mode) {
			c.report(field+".mode", "found %s, expected an octal mode in quotes, such as \"0755\"", quote(f.Mode))
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
		checkMirrorPrefix(c, field, c.Mirrors[host])
	}
}

func checkMirrorHost(c *checker, field, host string) {
	u, err := url.Parse(host)
	switch {
	case err == nil && u.Host != "" && hostPort.MatchString(u.Host):
		c.report(field, "found %s as the host to replace, expected the host alone; did you mean %s?", quote(host), u.Host)
	case !hostPort.MatchString(host):
		c.report(field, "found %s as the host to replace, expected a host such as registry.k8s.io", quote(host))
	case !strings.ContainsAny(host, ".:") && host != "localhost" && !slices.Contains(distroMirrors, host):
		c.report(field, "found %s as the host to replace, expected a host such as registry.k8s.io, or %s%s",
			quote(host), oneOf(distroMirrors), didYouMean(host, distroMirrors))
	}
}

func checkMirrorPrefix(c *checker, field, prefix string) {
	switch u, err := url.Parse(prefix); {
	case err != nil:
		// Neither the text nor the parser's message, which repeats it: it may hold a password.
		c.reportToo(field, "found something that is not a URL, expected one such as https://mirror.example/k8s")
	case u.User != nil || strings.Contains(prefix, "@"): // Without a scheme the parser takes user:password@host for something else.
		c.reportToo(field, "found a URL with credentials, which would end up in the image; remove them, nodeimg takes credentials from docker login")
	case u.Scheme != "http" && u.Scheme != "https" || u.Host == "":
		c.reportToo(field, "found %s, expected an http or https URL such as https://mirror.example/k8s", quote(prefix))
	case u.RawQuery != "" || u.ForceQuery || u.Fragment != "":
		c.reportToo(field, "found a URL with a query or fragment, expected a prefix that paths can follow, such as https://mirror.example/k8s")
	}
}

// maxCertificates bounds a file of certificates, in bytes; the bundle of all public authorities is a fifth of it.
const maxCertificates = 1 << 20

func checkCACertificates(c *checker) {
	reportRepeated(c, "spec.caCertificates", c.CACertificates)
	for i, name := range c.CACertificates {
		field := fmt.Sprintf("spec.caCertificates[%d]", i)
		if name == "" {
			c.report(field, "found nothing, expected a PEM file on the host")
			continue
		}
		if !checkHostPath(c, field, name, regularFile) {
			continue
		}
		file := hostPath(c.dir, name)
		if info, err := os.Stat(file); err == nil && info.Size() > maxCertificates {
			c.report(field, "found %s, which is larger than %d bytes, expected a PEM file with certificates", quote(name), maxCertificates)
			continue
		}
		text, err := os.ReadFile(file)
		if err != nil {
			c.report(field, "reading %s: %v", quote(name), causeOf(err))
			continue
		}
		count := 0
		for block, rest := pem.Decode(text); block != nil; block, rest = pem.Decode(rest) {
			if strings.Contains(block.Type, "PRIVATE KEY") {
				c.report(field, "found %s, which holds a private key that would end up in the image; give only the certificate", quote(name))
			}
			if block.Type == "CERTIFICATE" {
				count++
			}
		}
		if count == 0 {
			c.report(field, "found %s, which holds no certificate, expected a PEM file (-----BEGIN CERTIFICATE-----)", quote(name))
		}
	}
}

// hostKind is what a path on the host must be.
type hostKind string

const (
	anything    hostKind = "file or directory"
	regularFile hostKind = "file"
	directory   hostKind = "directory"
)

// checkHostPath reports a path that is not there or something else, and tells whether it is right.
func checkHostPath(c *checker, field, name string, want hostKind) bool {
	full := hostPath(c.dir, name)
	from := relativeHint(name)
	switch info, err := os.Stat(full); {
	case errors.Is(err, fs.ErrNotExist):
		c.report(field, "found %s, which does not exist%s%s", quote(name), from, didYouMean(filepath.Base(full), siblings(full)))
	case err != nil:
		c.report(field, "found %s, which cannot be read: %v", quote(name), causeOf(err))
	case want == regularFile && !info.Mode().IsRegular(), want == directory && !info.IsDir(),
		want == anything && !info.IsDir() && !info.Mode().IsRegular():
		c.report(field, "found %s, which is not a %s", quote(name), want)
	default:
		return true
	}
	return false
}

// siblings lists the names that lie where the path should be, for "did you mean".
func siblings(file string) []string {
	entries, err := os.ReadDir(filepath.Dir(file))
	if err != nil {
		return nil
	}
	names := make([]string, len(entries))
	for i, e := range entries {
		names[i] = e.Name()
	}
	return names
}

// causeOf drops the operation and the path from a file system error; the message around it names the path as the user wrote it.
func causeOf(err error) error {
	var cause *fs.PathError
	if errors.As(err, &cause) {
		return cause.Err
	}
	return err
}
