package strictyaml

import (
	"cmp"
	"fmt"
	"math"
	"reflect"
	"regexp"
	"strconv"
	"strings"
	"sync"
)

// Field is one field of a type as its tags describe it.
type Field struct {
	Name     string
	Type     reflect.Type
	Required bool
	Enum     []string
	Pattern  *regexp.Regexp
	Example  string
	// Minimum and Maximum are the bounds of a number; nil means none.
	Minimum, Maximum *float64
}

// outside says that a number is not within the bounds, if there are any.
func (f Field) outside(n float64) bool {
	if f.Minimum == nil && f.Maximum == nil {
		return false
	}
	// Flags have names for these.
	return math.IsNaN(n) || math.IsInf(n, 0) || f.Minimum != nil && n < *f.Minimum || f.Maximum != nil && n > *f.Maximum
}

// bounds names the bounds for a message.
func (f Field) bounds() string {
	switch {
	case f.Maximum == nil:
		return fmt.Sprintf("a number of at least %g", *f.Minimum)
	case f.Minimum == nil:
		return fmt.Sprintf("a number of at most %g", *f.Maximum)
	default:
		return fmt.Sprintf("a number from %.0f to %.0f", *f.Minimum, *f.Maximum)
	}
}

// known remembers what FieldsOf has found.
var known sync.Map

// FieldsOf describes the fields of a struct type, in order. A field is required unless its tag has an option such as omitempty.
func FieldsOf(t reflect.Type) []Field {
	if fields, ok := known.Load(t); ok {
		return fields.([]Field)
	}
	var fields []Field
	for f := range t.Fields() {
		name, options, _ := strings.Cut(f.Tag.Get("json"), ",")
		s := Field{Name: name, Type: f.Type, Required: options == ""}
		for keyword := range strings.SplitSeq(f.Tag.Get("jsonschema"), ",") {
			switch word, v, _ := strings.Cut(keyword, "="); word {
			case "enum":
				s.Enum = append(s.Enum, v)
			case "pattern":
				s.Pattern = regexp.MustCompile(v)
			case "minimum":
				s.Minimum = bound(v)
			case "maximum":
				s.Maximum = bound(v)
			case "example":
				s.Example = cmp.Or(s.Example, v)
			}
		}
		fields = append(fields, s)
	}
	known.Store(t, fields)
	return fields
}

func bound(text string) *float64 {
	n, err := strconv.ParseFloat(text, 64)
	if err != nil {
		panic(fmt.Sprintf("the tag's bound %q is no number", text)) // The program itself is wrong.
	}
	return &n
}

// EachString visits every string in a value, keys of mappings included, with its field path and, where it is a struct field, the field's
// description.
func EachString(value any, f func(path, value string, field Field)) {
	visit("", reflect.ValueOf(value), Field{}, func(path string, v reflect.Value, field Field) {
		if v.Kind() == reflect.String {
			f(path, v.String(), field)
		}
	})
}

// visit calls f for everything in a value that has no fields, elements or entries of its own, and for the keys of mappings.
func visit(path string, v reflect.Value, field Field, f func(path string, v reflect.Value, field Field)) {
	switch v.Kind() {
	case reflect.Struct:
		for i, described := range FieldsOf(v.Type()) {
			visit(join(path, described.Name), v.Field(i), described, f)
		}
	case reflect.Slice:
		for i := range v.Len() {
			visit(fmt.Sprintf("%s[%d]", path, i), v.Index(i), field, f)
		}
	case reflect.Map:
		for _, key := range v.MapKeys() {
			entry := path + "[" + key.String() + "]"
			f(entry, key, Field{})
			visit(entry, v.MapIndex(key), Field{}, f)
		}
	default:
		f(path, v, field)
	}
}
