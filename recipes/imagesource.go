package recipes

import (
	"bytes"
	"encoding/json"
	"fmt"

	"github.com/distribution/reference"
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
	for _, f := range s.set() {
		return f.name + " " + f.value
	}
	return "no image"
}

type namedValue struct{ name, value string }

// set lists the fields that are not empty.
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
		return "", fmt.Errorf("found %s, expected an image reference such as docker.io/library/nginx:1.29: %w", quote(name), err)
	}
	if reference.IsNameOnly(named) {
		return "", fmt.Errorf("found %s, which has neither tag nor digest; pin a version (or write %s:latest if you mean whatever is "+
			"newest at each build)", quote(name), name)
	}
	return named.String(), nil
}
