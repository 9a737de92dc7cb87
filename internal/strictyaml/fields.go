package strictyaml

import (
	"cmp"
	"fmt"
	"reflect"
	"regexp"
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
			case "example":
				s.Example = cmp.Or(s.Example, v)
			}
		}
		fields = append(fields, s)
	}
	known.Store(t, fields)
	return fields
}

// EachString visits every string in a value, keys of mappings included, with its field path and, where it is a struct field, the field's
// description.
func EachString(value any, visit func(path, value string, field Field)) {
	eachString("", reflect.ValueOf(value), Field{}, visit)
}

func eachString(path string, v reflect.Value, field Field, visit func(path, value string, field Field)) {
	switch v.Kind() {
	case reflect.String:
		visit(path, v.String(), field)
	case reflect.Struct:
		for i, f := range FieldsOf(v.Type()) {
			eachString(join(path, f.Name), v.Field(i), f, visit)
		}
	case reflect.Slice:
		for i := range v.Len() {
			eachString(fmt.Sprintf("%s[%d]", path, i), v.Index(i), field, visit)
		}
	case reflect.Map:
		for _, key := range v.MapKeys() {
			entry := path + "[" + key.String() + "]"
			visit(entry, key.String(), Field{})
			eachString(entry, v.MapIndex(key), Field{}, visit)
		}
	}
}
