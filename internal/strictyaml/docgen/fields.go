package docgen

import (
	"fmt"
	"slices"
	"strings"

	"github.com/invopop/jsonschema"
)

// Fields is a table for each mapping of the document.
func (r *Reference) Fields() string {
	var b strings.Builder
	for _, s := range r.sections() {
		name := "The document"
		if s.path != "" {
			name = "`" + s.path + "`"
		}
		fmt.Fprintf(&b, "### %s\n\n", name)
		if strings.HasSuffix(s.path, "[]") {
			_, rest, _ := strings.Cut(s.description, " ") // Behind the type's name.
			fmt.Fprintf(&b, "An entry %s\n\n", rest)
		}
		b.WriteString("| field | type and values | default | meaning |\n|---|---|---|---|\n")
		for pair := s.object.Properties.Oldest(); pair != nil; pair = pair.Next() {
			path := strings.TrimPrefix(s.path+"."+pair.Key, ".")
			fmt.Fprintf(&b, "| `%s` | %s | %s | %s |\n", pair.Key, r.kind(path, pair.Value), r.fallback(path, s, pair.Key), meaning(pair.Key, pair.Value.Description))
		}
		b.WriteString("\n")
	}
	return strings.TrimRight(b.String(), "\n") + "\n"
}

// kind says in YAML's words what the field holds.
func (r *Reference) kind(path string, field *jsonschema.Schema) string {
	if name, list := r.element(field); name != "" {
		what := "mapping"
		if list {
			what = "list"
		}
		for _, s := range r.sections() {
			if s.definition == name {
				return what + ", see [" + place(s, path, list) + "](#" + anchor(s.path) + ")"
			}
		}
	}
	switch {
	case field.Items != nil:
		return "list of " + field.Items.Type + "s" + r.values(path, field.Items)
	case field.Type == "object":
		return "mapping of " + entries(field.AdditionalProperties)
	default:
		return field.Type + r.values(path, field)
	}
}

// place says where a section stands, seen from the field at the path.
func place(s section, path string, list bool) string {
	if list {
		path += "[]"
	}
	if s.path == path {
		return "below"
	}
	return "`" + s.path + "`"
}

// anchor is what Markdown renderers call the heading of a path: lower case, without punctuation.
func anchor(path string) string {
	return strings.ToLower(strings.NewReplacer(".", "", "[", "", "]", "").Replace(path))
}

// values lists what is allowed, with the notes about them.
func (r *Reference) values(path string, field *jsonschema.Schema) string {
	var values []string
	for _, value := range field.Enum {
		text := fmt.Sprintf("`%v`", value)
		if r.Note != nil {
			text += r.Note(path, value)
		}
		values = append(values, text)
	}
	if len(values) > 0 {
		return ": " + strings.Join(values, ", ")
	}
	values = nil
	for _, example := range field.Examples {
		values = append(values, fmt.Sprintf("`%v`", example))
	}
	if len(values) > 0 {
		return ", for instance " + strings.Join(values, ", ")
	}
	return ""
}

func (r *Reference) fallback(path string, s section, key string) string {
	if text, ok := r.Varying[path]; ok {
		return text
	}
	if slices.Contains(s.object.Required, key) {
		return "required"
	}
	value, ok := r.Defaults[path]
	if !ok {
		return ""
	}
	return fmt.Sprintf("`%v`", value)
}

// meaning is the Go comment, which begins with the field's name as Go spells it.
func meaning(key, comment string) string {
	first, rest, _ := strings.Cut(comment, " ")
	if strings.EqualFold(first, key) {
		comment = "`" + key + "` " + rest
	}
	return strings.ReplaceAll(comment, "|", `\|`)
}

// entries names the values of a mapping whose keys are free.
func entries(value *jsonschema.Schema) string {
	switch {
	case value == nil || value.Type == "string" || value.Type == "":
		return "strings"
	case value.Items != nil:
		return "lists of " + value.Items.Type + "s"
	default:
		return value.Type + "s"
	}
}
