package strictyaml

import (
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"strings"
)

// HostPath returns the path on the host that a document in dir names.
func HostPath(dir, name string) string {
	if filepath.IsAbs(name) {
		return filepath.Clean(name)
	}
	return filepath.Join(dir, name)
}

// HostKind is what a path on the host must be.
type HostKind string

// The kinds of paths.
const (
	// Existing is whatever is there, sockets and devices too.
	Existing    HostKind = "anything"
	Anything    HostKind = "file or directory"
	RegularFile HostKind = "file"
	Directory   HostKind = "directory"
)

// HostPath reports a path on the host, relative to dir or absolute, that is not there or something else, and tells whether it is right.
func (r *Report) HostPath(field, dir, name string, want HostKind) bool {
	full := HostPath(dir, name)
	from := ""
	if !filepath.IsAbs(name) && r.Noun != "" {
		from = " relative to the " + r.Noun
	}
	switch info, err := os.Stat(full); {
	case errors.Is(err, fs.ErrNotExist):
		r.Add(field, "found %s, which does not exist%s%s", Quote(name), from, DidYouMean(filepath.Base(full), siblings(full)))
	case err != nil:
		r.Add(field, "found %s, which cannot be read: %v", Quote(name), causeOf(err))
	case want == RegularFile && !info.Mode().IsRegular(), want == Directory && !info.IsDir(),
		want == Anything && !info.IsDir() && !info.Mode().IsRegular():
		r.Add(field, "found %s, which is not a %s", Quote(name), want)
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

// MirrorURL reports what is no URL prefix of a mirror: http or https, without credentials, which would end up where others can read them.
func (r *Report) MirrorURL(field, prefix string) {
	switch u, err := url.Parse(prefix); {
	case err != nil:
		// Neither the text nor the parser's message, which repeats it: it may hold a password.
		r.AddToo(field, "found something that is not a URL, expected one such as https://mirror.example/k8s")
	case u.User != nil || strings.Contains(prefix, "@"): // Without a scheme the parser takes user:password@host for something else.
		r.AddToo(field, "found a URL with credentials, which would end up in the %s; remove them%s", r.Place, r.Remedy)
	case u.Scheme != "http" && u.Scheme != "https" || u.Host == "":
		r.AddToo(field, "found %s, expected an http or https URL such as https://mirror.example/k8s", Quote(prefix))
	case u.RawQuery != "" || u.ForceQuery || u.Fragment != "":
		r.AddToo(field, "found a URL with a query or fragment, expected a prefix that paths can follow, such as https://mirror.example/k8s")
	}
}

// maxCertificates bounds a file of certificates, in bytes; the bundle of all public authorities is a fifth of it.
const maxCertificates = 1 << 20

// Certificates reports paths on the host, relative to dir or absolute, that are no PEM files of certificates.
func (r *Report) Certificates(path, dir string, names []string) {
	r.Repeated(path, names)
	for i, name := range names {
		field := fmt.Sprintf("%s[%d]", path, i)
		if name == "" {
			r.Add(field, "found nothing, expected a PEM file on the host")
			continue
		}
		if r.HostPath(field, dir, name, RegularFile) {
			r.certificate(field, HostPath(dir, name), name)
		}
	}
}

func (r *Report) certificate(field, file, name string) {
	if info, err := os.Stat(file); err == nil && info.Size() > maxCertificates {
		r.Add(field, "found %s, which is larger than %d bytes, expected a PEM file with certificates", Quote(name), maxCertificates)
		return
	}
	text, err := os.ReadFile(file)
	if err != nil {
		r.Add(field, "reading %s: %v", Quote(name), causeOf(err))
		return
	}
	count := 0
	for block, rest := pem.Decode(text); block != nil; block, rest = pem.Decode(rest) {
		if strings.Contains(block.Type, "PRIVATE KEY") {
			r.Add(field, "found %s, which holds a private key that would end up in the %s; give only the certificate", Quote(name), r.Place)
		}
		if block.Type == "CERTIFICATE" {
			count++
		}
	}
	if count == 0 {
		r.Add(field, "found %s, which holds no certificate, expected a PEM file (-----BEGIN CERTIFICATE-----)", Quote(name))
	}
}

// Repeated reports each value of a list that stands in it before.
func (r *Report) Repeated(path string, values []string) {
	places := map[string]int{}
	for i, v := range values {
		if first, again := places[v]; !again {
			places[v] = i
		} else if v != "" {
			r.Add(fmt.Sprintf("%s[%d]", path, i), "found %s again, it is already %s[%d]; remove one of them", Quote(v), path, first)
		}
	}
}
