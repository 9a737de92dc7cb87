// Command docgen writes the parts of docs/recipe.md that follow from the code: the fields from the JSON Schema and the defaults, the
// distributions, and what the recipe format has but this version cannot build, which it finds out by trying. It runs in the recipes folder,
// by go generate.
package main

import "github.com/nodeimg/nodeimg/internal/strictyaml/docgen"

func main() { docgen.Main(parts) }

func parts() ([]docgen.Part, error) {
	reference, err := newReference()
	if err != nil {
		return nil, err
	}
	return []docgen.Part{
		{Name: "fields", Text: reference.Fields()},
		{Name: "distributions", Text: reference.distributions()},
		{Name: "limits", Text: reference.limits()},
	}, nil
}
