package strictyaml

import (
	"fmt"
	"reflect"
	"slices"
	"strings"
	"unicode"
)

// Report collects what is wrong with a value that was read. The zero value is ready for use.
type Report struct {
	// Noun is what people call the document, Place what its values end up in, for messages.
	Noun, Place string
	// Remedy ends the message about a mirror with credentials: ", nodeimg takes …".
	Remedy string
	// Problems have fields but no positions; Load, which knows them, adds those.
	Problems []Problem

	reported map[string]bool
}

// Add adds a problem unless the field has one: the first check to find fault says what matters.
func (r *Report) Add(field, format string, args ...any) {
	if !r.reported[field] {
		r.AddToo(field, format, args...)
	}
}

// AddToo adds a problem even if the field has one.
func (r *Report) AddToo(field, format string, args ...any) {
	if r.reported == nil {
		r.reported = map[string]bool{}
	}
	r.reported[field] = true
	r.Problems = append(r.Problems, Problem{Field: field, Message: fmt.Sprintf(format, args...)})
}

// Enums compares fields of few values with the values that their type's tags list. Empty optional fields are right.
func (r *Report) Enums(value any) {
	EachString(value, func(path, value string, field Field) {
		optional := value == "" && !field.Required && !strings.HasSuffix(path, "]")
		if len(field.Enum) > 0 && !optional && !slices.Contains(field.Enum, value) {
			suggestion := ""
			if len(field.Enum) > 1 {
				suggestion = DidYouMean(value, field.Enum)
			}
			r.Add(path, "found %s, expected %s%s", Quote(value), OneOf(field.Enum), suggestion)
		}
	})
}

// Bounds compares numbers with the bounds that their type's tags have. Zero in an optional field is right: it means that there is no value.
func (r *Report) Bounds(value any) {
	visit("", reflect.ValueOf(value), Field{}, func(path string, v reflect.Value, field Field) {
		var n float64
		switch v.Kind() {
		case reflect.Int:
			n = float64(v.Int())
		case reflect.Float64:
			n = v.Float()
		default:
			return
		}
		if (n != 0 || field.Required) && field.outside(n) {
			r.Add(path, "found %v, expected %s", v, field.bounds())
		}
	})
}

// Text refuses control characters, other than those that allowed returns for a field: where values end up, a line break would start
// something else.
func (r *Report) Text(value any, allowed func(path string) string) {
	EachString(value, func(path, value string, _ Field) {
		for _, c := range value {
			if unicode.IsControl(c) && !strings.ContainsRune(allowed(path), c) {
				r.Add(path, "found %s, expected text without control characters such as %q", Quote(value), c)
				return
			}
		}
	})
}
