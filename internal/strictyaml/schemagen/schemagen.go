// Package schemagen makes the JSON Schema (draft 2020-12) of a type that strictyaml reads, for editors. The descriptions come from the
// comments of the Go sources, which the nodeimg binary does not have, so schemas are generated beforehand and embedded. Small programs
// beside the types run it, by go generate.
package schemagen

import (
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"reflect"
	"strings"

	"github.com/google/renameio/v2"
	"github.com/invopop/jsonschema"
)

// Main writes what generate returns to the file that the flag -o names, and ends the program.
func Main(generate func() ([]byte, error)) {
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

// Generate returns the schema of the value's type, read from the type and from the sources in the working directory, which must be those of
// its package, as change leaves it; change may be nil. The same sources give the same bytes.
func Generate(value any, title string, change func(*jsonschema.Schema)) ([]byte, error) {
	reflector := &jsonschema.Reflector{Anonymous: true, ExpandedStruct: true}
	if err := reflector.AddGoComments(reflect.TypeOf(value).Elem().PkgPath(), ".", jsonschema.WithFullComment()); err != nil {
		return nil, fmt.Errorf("reading comments: %w", err)
	}
	for name, comment := range reflector.CommentMap {
		// Go wraps comments for people who read code; editors wrap descriptions themselves.
		reflector.CommentMap[name] = strings.Join(strings.Fields(comment), " ")
	}
	schema := reflector.Reflect(value)
	schema.Title = title
	if change != nil {
		change(schema)
	}
	text, err := json.MarshalIndent(schema, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("encoding schema: %w", err)
	}
	return append(text, '\n'), nil
}
