// Package strictyaml reads YAML files that people write by hand into Go types: every mistake comes back at once, with file, line, column,
// field, what was found and what was expected. What a field must be is said by the tags json and jsonschema of the type; what else must
// hold, the type's own package checks. Mistakes are an *InputError.
package strictyaml
