package recipes

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/distribution/reference"

	"github.com/nodeimg/nodeimg/internal/strictyaml"
)

// UnmarshalJSON accepts a plain string as short for {"registry": STRING}.
func (s *ImageSource) UnmarshalJSON(text []byte) error {
	var short string
	if json.Unmarshal(text, &short) == nil {
		*s = ImageSource{Registry: short}
		return nil
	}
	type plain ImageSource // Without this method, or it would call itself.
	decoder := json.NewDecoder(bytes.NewReader(text))
	decoder.DisallowUnknownFields()
	var long plain
	if err := decoder.Decode(&long); err != nil {
		return fmt.Errorf("decoding image source: %w", err)
	}
	*s = ImageSource(long)
	return nil
}

// String renders the source as "registry docker.io/library/nginx:1.29" or "archive app.tar", for messages.
func (s ImageSource) String() string {
	set := s.set()
	if len(set) == 0 {
		return "no image"
	}
	text := set[0].name + " " + set[0].value
	if s.Name != "" {
		text += " (" + s.Name + ")"
	}
	return text
}

// Expand returns the source itself or, for a pattern of archives (filepath.Match), a source for each file that it matches, sorted by
// path. Relative patterns start from dir, and so do the paths in the result. A file whose own name reads like a pattern is that file. The
// error says what is wrong with a pattern, or that it matches no file.
func (s ImageSource) Expand(dir string) ([]ImageSource, error) {
	if !s.isPattern(dir) {
		return []ImageSource{s}, nil
	}
	pattern := s.Archive
	if !filepath.IsAbs(pattern) {
		// The folder's own name is no part of the pattern.
		pattern = filepath.Join(patternEscape.Replace(dir), pattern)
	}
	matches, err := filepath.Glob(pattern)
	if err != nil {
		return nil, fmt.Errorf("found %s, which is no pattern: %w", strictyaml.Quote(s.Archive), err)
	}
	var list []ImageSource
	slices.Sort(matches)
	for _, file := range matches {
		if info, err := os.Stat(file); err != nil || !info.Mode().IsRegular() {
			continue
		}
		if !filepath.IsAbs(s.Archive) {
			if file, err = filepath.Rel(dir, file); err != nil {
				return nil, fmt.Errorf("reading the pattern %s: %w", strictyaml.Quote(s.Archive), err)
			}
		}
		list = append(list, ImageSource{Archive: file, Name: s.Name})
	}
	if len(list) == 0 {
		return nil, fmt.Errorf("found the pattern %s, which matches no file%s", strictyaml.Quote(s.Archive), relativeHint(s.Archive))
	}
	return list, nil
}

// isPattern tells whether the archive's path is a pattern.
func (s ImageSource) isPattern(dir string) bool {
	if !strings.ContainsAny(s.Archive, `*?[`) {
		return false
	}
	_, err := os.Lstat(hostPath(dir, s.Archive))
	return err != nil
}

// patternEscape makes a path a pattern that matches only itself.
var patternEscape = strings.NewReplacer(`\`, `\\`, `*`, `\*`, `?`, `\?`, `[`, `\[`)

// relativeHint says where a relative path starts.
func relativeHint(name string) string {
	if filepath.IsAbs(name) {
		return ""
	}
	return " relative to the recipe"
}

type namedValue struct{ name, value string }

// set lists the fields that are not empty, of those that say where the image is.
func (s ImageSource) set() []namedValue {
	var fields []namedValue
	for _, f := range []namedValue{{"registry", s.Registry}, {"archive", s.Archive}, {"docker", s.Docker}, {"layout", s.Layout}} {
		if f.value != "" {
			fields = append(fields, f)
		}
	}
	return fields
}

// NormalizeReference returns the full name of an image, registry included: nginx:1.29 becomes docker.io/library/nginx:1.29. A
// reference must have a tag or a digest: what an unpinned one means changes from day to day, and with it the image that is built.
func NormalizeReference(name string) (string, error) {
	named, err := reference.ParseNormalizedNamed(name)
	if err != nil {
		return "", fmt.Errorf("found %s, expected an image reference such as docker.io/library/nginx:1.29: %w", strictyaml.Quote(name), err)
	}
	if reference.IsNameOnly(named) {
		return "", fmt.Errorf("found %s, which has neither tag nor digest; pin a version (or write %s:latest if you mean whatever is "+
			"newest at each build)", strictyaml.Quote(name), name)
	}
	return named.String(), nil
}
