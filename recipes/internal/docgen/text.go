package main

import (
	"fmt"
	"slices"
	"strings"

	"github.com/invopop/jsonschema"

	"github.com/nodeimg/nodeimg/recipes"
)

// varying are the defaults that do not stand in the shortest recipe, because they depend on something else.
var varying = map[string]string{
	"spec.base.release": "see [distributions](#distributions)",
	"spec.base.image":   "see [distributions](#distributions)",
	"spec.platforms":    "this machine's",
}

// fields is a table for each mapping of the recipe.
func (r *reference) fields() string {
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
func (r *reference) kind(path string, field *jsonschema.Schema) string {
	switch {
	case definitionName(field) != "":
		return "mapping, see [below](#" + anchor(path) + ")"
	case field.Items != nil && definitionName(field.Items) != "":
		return "list, see [below](#" + anchor(path) + ")"
	case field.Items != nil:
		return "list of " + field.Items.Type + "s" + r.values(path, field.Items)
	case field.Type == "object":
		return "mapping of strings"
	default:
		return field.Type + r.values(path, field)
	}
}

// anchor is what Markdown renderers call the heading of a path: lower case, without punctuation.
func anchor(path string) string { return strings.ToLower(strings.ReplaceAll(path, ".", "")) }

// values lists what is allowed, and marks what this version cannot build.
func (r *reference) values(path string, field *jsonschema.Schema) string {
	var values []string
	for _, value := range field.Enum {
		text := fmt.Sprintf("`%v`", value)
		if slices.ContainsFunc(r.missing[path], func(m refusal) bool { return m.value == value }) {
			text += " (not yet)"
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

func (r *reference) fallback(path string, s section, key string) string {
	if text, ok := varying[path]; ok {
		return text
	}
	if slices.Contains(s.object.Required, key) {
		return "required"
	}
	value, ok := r.defaults[path]
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

func (r *reference) distributions() string {
	var b strings.Builder
	b.WriteString("| `distro` | `release` | code name | default `image` |\n|---|---|---|---|\n")
	for _, d := range recipes.Distros() {
		note := ""
		if first, ok := recipes.FindDistro(d.Name, ""); ok && first == d {
			note = " (default)"
		}
		fmt.Fprintf(&b, "| `%s` | `\"%s\"`%s | %s | `%s` |\n", d.Name, d.Release, note, d.Codename, d.Image)
	}
	return b.String()
}

// limits is what the format has and validation refuses.
func (r *reference) limits() string {
	var b strings.Builder
	_ = r.eachField(func(path string, _ *jsonschema.Schema) error {
		if refused := r.missing[path]; len(refused) > 0 {
			var values []string
			for _, m := range refused {
				values = append(values, "`"+m.value+"`")
			}
			fmt.Fprintf(&b, "* `%s`: %s. What works now is %s.\n", path, strings.Join(values, " and "), refused[0].now)
		}
		return nil
	})
	if r.severalPlatforms != "" {
		fmt.Fprintf(&b, "* `spec.platforms`: %s.\n", r.severalPlatforms)
	}
	return b.String()
}
