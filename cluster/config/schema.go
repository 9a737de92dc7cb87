package config

import (
	"bytes"
	_ "embed"
)

// The reference page is made from the schema, so it comes second.
//go:generate go run ./internal/schemagen -o schema.json
//go:generate go run ./internal/docgen -o ../../docs/cluster-config.md

//go:embed schema.json
var schema []byte

// Schema returns the JSON Schema (draft 2020-12) of descriptions of clusters, with the types' comments as descriptions, for editors. It is
// generated from the Go types; whatever the schema accepts, Load may still refuse for reasons that a schema cannot express.
func Schema() []byte { return bytes.Clone(schema) }
