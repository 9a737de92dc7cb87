// Command docgen writes the part of docs/cluster-config.md that follows from the code: the fields from the JSON Schema and the defaults. It
// runs in the config folder, by go generate.
package main

import (
	"github.com/nodeimg/nodeimg/cluster/config"
	"github.com/nodeimg/nodeimg/internal/strictyaml/docgen"
)

func main() { docgen.Main(parts) }

func parts() ([]docgen.Part, error) {
	shortest := config.Cluster{}
	shortest.Default()
	reference, err := docgen.New(config.Schema(), shortest)
	if err != nil {
		return nil, err
	}
	// What every document says is no default.
	for _, path := range []string{"apiVersion", "kind"} {
		delete(reference.Defaults, path)
	}
	reference.Varying = map[string]string{"spec.controlPlanes": "one node"}
	return []docgen.Part{{Name: "fields", Text: reference.Fields()}}, nil
}
