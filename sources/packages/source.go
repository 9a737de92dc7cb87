package packages

import (
	"bufio"
	"fmt"
	"net/url"
	"path"
	"regexp"
	"slices"
	"strings"
)

// Source is one apt source of binary packages (sources.list(5)).
type Source struct {
	URIs, Suites, Components []string
	// SignedBy is the absolute path of the keyring that must have signed it, or the armoured key itself; empty means the universe's
	// trusted keys.
	SignedBy string
}

// parseSources reads apt sources in the deb822 format (name ends in .sources) or the one-line format. Disabled and source-code entries are
// left out, and so is every option that would weaken verification, for instance "Trusted: yes".
func parseSources(name string, text []byte) ([]Source, error) {
	if strings.HasSuffix(name, ".sources") {
		return parseDeb822(text), nil
	}
	return parseOneLine(name, text)
}

func parseDeb822(text []byte) []Source {
	var sources []Source
	for _, stanza := range stanzas(text) {
		if enabled := strings.ToLower(stanza["enabled"]); enabled == "no" || enabled == "false" || enabled == "0" {
			continue
		}
		if !slices.Contains(strings.Fields(stanza["types"]), "deb") {
			continue
		}
		sources = append(sources, Source{
			URIs: strings.Fields(stanza["uris"]), Suites: strings.Fields(stanza["suites"]), Components: strings.Fields(stanza["components"]),
			SignedBy: strings.TrimSpace(stanza["signed-by"]),
		})
	}
	return sources
}

// stanzas splits a deb822 text (deb822(5)) into its stanzas; field names are lower-cased, comment lines dropped.
func stanzas(text []byte) []map[string]string {
	var all []map[string]string
	var current map[string]string
	var field string
	for line := range strings.Lines(string(text)) {
		line = strings.TrimRight(line, "\r\n")
		switch {
		case strings.HasPrefix(line, "#"):
		case strings.TrimSpace(line) == "":
			current = nil
		case line[0] == ' ' || line[0] == '\t':
			if current != nil {
				current[field] += "\n" + strings.TrimSpace(line)
			}
		default:
			key, value, ok := strings.Cut(line, ":")
			if !ok {
				continue
			}
			if current == nil {
				current = map[string]string{}
				all = append(all, current)
			}
			field = strings.ToLower(key)
			current[field] = strings.TrimSpace(value)
		}
	}
	return all
}

var oneLine = regexp.MustCompile(`^deb\s+(?:\[([^\]]*)\]\s*)?(\S+)\s+(\S+)\s*(.*)$`)

func parseOneLine(name string, text []byte) ([]Source, error) {
	var sources []Source
	lines := bufio.NewScanner(strings.NewReader(string(text)))
	for number := 1; lines.Scan(); number++ {
		line, _, _ := strings.Cut(lines.Text(), "#")
		line = strings.TrimSpace(line)
		if line == "" || strings.HasPrefix(line, "deb-src") {
			continue
		}
		match := oneLine.FindStringSubmatch(line)
		if match == nil {
			return nil, fmt.Errorf("reading apt source %s:%d: expected \"deb URI SUITE COMPONENT…\"", name, number)
		}
		source := Source{URIs: []string{match[2]}, Suites: []string{match[3]}, Components: strings.Fields(match[4])}
		for _, option := range strings.Fields(match[1]) {
			if key, value, _ := strings.Cut(option, "="); strings.EqualFold(key, "signed-by") {
				source.SignedBy = value
			}
		}
		sources = append(sources, source)
	}
	return sources, lines.Err()
}

// deb822 writes the source in apt's format; keyring maps the path of a keyring to where it lies.
func (s Source) deb822(keyring func(string) string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "Types: deb\nURIs: %s\nSuites: %s\n", strings.Join(s.URIs, " "), strings.Join(s.Suites, " "))
	if len(s.Components) > 0 {
		fmt.Fprintf(&b, "Components: %s\n", strings.Join(s.Components, " "))
	}
	switch {
	case strings.Contains(s.SignedBy, "\n"):
		b.WriteString("Signed-By:\n")
		for line := range strings.Lines(s.SignedBy) {
			fmt.Fprintf(&b, " %s\n", strings.TrimSpace(line))
		}
	case s.SignedBy != "":
		fmt.Fprintf(&b, "Signed-By: %s\n", keyring(s.SignedBy))
	}
	b.WriteString("\n")
	return b.String()
}

// archive says which archive of a distribution a URI serves by the last element of its path ("debian", "debian-security", "ubuntu",
// "ubuntu-ports"), as all their mirrors are laid out, and is empty for anything else.
func archive(uri string) string {
	u, err := url.Parse(uri)
	if err != nil {
		return ""
	}
	switch last := path.Base(strings.TrimRight(u.Path, "/")); last {
	case "debian", "debian-security", "ubuntu", "ubuntu-ports":
		return last
	}
	return ""
}

// redirect applies the recipe's mirrors: the key is an archive (debian, debian-security, ubuntu) or a host, the value replaces the
// archive's URI, or the host and what stands before it.
func redirect(uri string, mirrors map[string]string) string {
	if mirror, ok := mirrors[archive(uri)]; ok {
		return strings.TrimRight(mirror, "/")
	}
	if u, err := url.Parse(uri); err == nil {
		if mirror, ok := mirrors[u.Host]; ok {
			return strings.TrimRight(mirror, "/") + u.EscapedPath()
		}
	}
	return uri
}
