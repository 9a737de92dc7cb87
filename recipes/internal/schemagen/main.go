// Command schemagen writes the JSON Schema of recipes. It runs in the recipes folder, by go generate.
package main

import (
	"github.com/invopop/jsonschema"

	"github.com/nodeimg/nodeimg/internal/strictyaml/schemagen"
	"github.com/nodeimg/nodeimg/recipes"
)

func main() { schemagen.Main(generate) }

func generate() ([]byte, error) {
	return schemagen.Generate(&recipes.Recipe{}, "nodeimg recipe", allowShortImageSource)
}

// allowShortImageSource says what ImageSource.UnmarshalJSON does: a string, or a mapping with exactly one place, and for some places a
// name.
func allowShortImageSource(schema *jsonschema.Schema) {
	const name = "ImageSource"
	long := schema.Definitions[name]
	one := uint64(1)
	named := &jsonschema.Schema{Required: []string{"name"}}
	for _, place := range []string{"registry", "archive", "docker", "layout"} {
		only := &jsonschema.Schema{Required: []string{place}}
		if place == "registry" || place == "docker" {
			only.Not = named
		}
		long.OneOf = append(long.OneOf, only)
	}
	short := &jsonschema.Schema{
		Type: "string", MinLength: &one, Description: "A reference to pull from a registry, with tag or digest.",
		Examples: []any{"docker.io/library/nginx:1.29"},
	}
	description := long.Description
	long.Description = ""
	schema.Definitions[name] = &jsonschema.Schema{OneOf: []*jsonschema.Schema{short, long}, Description: description}
}
