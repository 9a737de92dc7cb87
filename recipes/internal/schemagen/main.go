// Command schemagen writes the JSON Schema of recipes. The descriptions come from the comments of the Go sources, which the nodeimg
// binary does not have, so the schema is generated beforehand and embedded. It runs in the recipes folder, by go generate.
package main

import (
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"reflect"
	"strings"

	"github.com/google/renameio/v2"
	"github.com/invopop/jsonschema"

	"github.com/nodeimg/nodeimg/recipes"
)

func main() {
	output := flag.String("o", "schema.json", "write the schema to `FILE`")
	flag.Parse()
	schema, err := generate()
	if err == nil {
		err = renameio.WriteFile(*output, schema, 0o644)
	}
	if err != nil {
		fmt.Fprintf(os.Stderr, "Error: generating schema: %v\n", err)
		os.Exit(1)
	}
}

// generate returns the schema, read from the types and from the sources in the working directory. The same sources give the same bytes.
func generate() ([]byte, error) {
	reflector := &jsonschema.Reflector{Anonymous: true, ExpandedStruct: true}
	if err := reflector.AddGoComments(reflect.TypeFor[recipes.Recipe]().PkgPath(), ".", jsonschema.WithFullComment()); err != nil {
		return nil, fmt.Errorf("reading comments: %w", err)
	}
	for name, comment := range reflector.CommentMap {
		// Go wraps comments for people who read code; editors wrap descriptions themselves.
		reflector.CommentMap[name] = strings.Join(strings.Fields(comment), " ")
	}
	schema := reflector.Reflect(&recipes.Recipe{})
	schema.Title = "nodeimg recipe"
	allowShortImageSource(schema)
	text, err := json.MarshalIndent(schema, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("encoding schema: %w", err)
	}
	return append(text, '\n'), nil
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
