package docgen

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/invopop/jsonschema"
)

// Reference is what tables of fields are written from.
type Reference struct {
	// Schema is that of the type.
	Schema jsonschema.Schema
	// Defaults are the values of a document that says nothing but what it must, by field path.
	Defaults map[string]any
	// Varying are defaults that depend on something else, as a table has them, by field path.
	Varying map[string]string
	// Note adds a remark to one of a field's values; it may be nil.
	Note func(path string, value any) string
}

// New returns the reference of a schema, with the defaults of the shortest document.
func New(schema []byte, shortest any) (*Reference, error) {
	r := &Reference{Defaults: map[string]any{}}
	if err := json.Unmarshal(schema, &r.Schema); err != nil {
		return nil, fmt.Errorf("reading the schema: %w", err)
	}
	text, err := json.Marshal(shortest)
	if err != nil {
		return nil, err
	}
	var whole map[string]any
	if err := json.Unmarshal(text, &whole); err != nil {
		return nil, err
	}
	flatten("", whole, r.Defaults)
	return r, nil
}

// flatten adds the leaves of a decoded JSON value by their paths.
func flatten(path string, value any, into map[string]any) {
	object, ok := value.(map[string]any)
	if !ok {
		into[path] = value
		return
	}
	for name, v := range object {
		flatten(strings.TrimPrefix(path+"."+name, "."), v, into)
	}
}

// EachField visits the fields of the document itself, not those of list elements, in the order of the schema.
func (r *Reference) EachField(visit func(path string, field *jsonschema.Schema) error) error {
	for _, section := range r.sections() {
		if strings.Contains(section.path, "[]") {
			continue
		}
		for pair := section.object.Properties.Oldest(); pair != nil; pair = pair.Next() {
			if err := visit(strings.TrimPrefix(section.path+"."+pair.Key, "."), pair.Value); err != nil {
				return err
			}
		}
	}
	return nil
}

// section is one mapping of a document.
type section struct {
	path, definition string
	object           *jsonschema.Schema
	description      string
}

// sections lists the mappings from the outside in. One that stands in several places is listed for the first of them.
func (r *Reference) sections() []section {
	sections := []section{{object: &r.Schema, description: r.Schema.Description}}
	for i := 0; i < len(sections); i++ {
		s := sections[i]
		for pair := s.object.Properties.Oldest(); pair != nil; pair = pair.Next() {
			name, list := r.element(pair.Value)
			if name == "" || slices.ContainsFunc(sections, func(s section) bool { return s.definition == name }) {
				continue
			}
			path := strings.TrimPrefix(s.path+"."+pair.Key, ".")
			if list {
				path += "[]"
			}
			inner := section{path: path, definition: name, object: r.Schema.Definitions[name]}
			inner.description = inner.object.Description
			if choices := inner.object.OneOf; len(choices) > 0 {
				mapping := slices.IndexFunc(choices, func(c *jsonschema.Schema) bool { return c.Properties != nil })
				inner.object = choices[mapping]
			}
			sections = append(sections, inner)
		}
	}
	return sections
}

// element is the definition of the mapping that a field holds, or of those in its list; empty when it holds none.
func (r *Reference) element(field *jsonschema.Schema) (name string, list bool) {
	name, _ = strings.CutPrefix(field.Ref, "#/$defs/")
	if definition := r.Schema.Definitions[name]; definition != nil && definition.Items != nil {
		field = definition
	}
	if field.Items != nil {
		name, _ = strings.CutPrefix(field.Items.Ref, "#/$defs/")
		return name, true
	}
	return name, false
}
