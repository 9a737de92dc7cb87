package preload

import (
	"encoding/json"
	"fmt"
)

const (
	// maxValues is the most values that the JSON of a manifest, index or config may hold: each takes up to a hundred times the memory of
	// its text. An index of ten thousand images has a third of it.
	maxValues = 1 << 18
	// maxDepth is the deepest nesting that such JSON may have; what the specifications define has five levels.
	maxDepth = 100
)

// decodeJSON decodes a manifest, index or config that nobody vouches for.
func decodeJSON(b []byte, v any) error {
	if err := checkShape(b); err != nil {
		return err
	}
	return json.Unmarshal(b, v)
}

// checkShape bounds the memory that decoding b takes. It does not care whether b is valid JSON.
func checkShape(b []byte) error {
	values, depth := 1, 0
	text, escaped := false, false
	for _, c := range b {
		switch {
		case escaped:
			escaped = false
		case text:
			escaped, text = c == '\\', c != '"'
		case c == '"':
			text = true
		case c == ',':
			values++
		case c == '{' || c == '[':
			values++
			depth++
		case c == '}' || c == ']':
			depth--
		}
		if values > maxValues {
			return fmt.Errorf("it holds more than %d values", maxValues)
		}
		if depth > maxDepth {
			return fmt.Errorf("it is nested more than %d levels deep", maxDepth)
		}
	}
	return nil
}
