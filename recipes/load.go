package recipes

import (
	"fmt"
	"io"
	"reflect"

	"github.com/nodeimg/nodeimg/internal/strictyaml"
)

// MaxSize is the largest recipe file that Load reads, in bytes.
const MaxSize = strictyaml.MaxSize

// Document is one recipe of a file, complete with its defaults, and where its fields stand.
type Document struct {
	// File is the recipe's file as the user named it, or "<stdin>".
	File string
	// Dir is the directory that the recipe's relative host paths start from.
	Dir string
	// Recipe is defaulted, normalised and valid.
	Recipe Recipe

	positions strictyaml.Positions
}

// Position returns where a field stands in File, counted from 1. The path is written as in Problem.Field, for instance
// "spec.preload.images[2]" or "spec.mirrors[registry.k8s.io]". A field that the file does not hold, because it was defaulted, is
// where its nearest enclosing field is; the empty path is the start of the document.
func (d *Document) Position(fieldPath string) (line, column int) { return d.positions.Find(fieldPath) }

// Problem describes a mistake in the field, for NewInputError.
func (d *Document) Problem(fieldPath, format string, args ...any) Problem {
	line, column := d.Position(fieldPath)
	return Problem{File: d.File, Line: line, Column: column, Field: fieldPath, Message: fmt.Sprintf(format, args...)}
}

// HostPath returns the host path that the recipe names: relative ones start from the recipe's directory.
func (d *Document) HostPath(name string) string { return hostPath(d.Dir, name) }

func hostPath(dir, name string) string { return strictyaml.HostPath(dir, name) }

// format is what recipes are.
var format = strictyaml.Format[Recipe]{
	Noun: "recipe", APIVersion: APIVersion, Kind: Kind,
	Empty: `holds no recipe; write one with "nodeimg init"`,
	Expectations: map[string]string{
		"apiVersion":              APIVersion,
		"kind":                    Kind,
		"metadata":                "a mapping with the field name",
		"metadata.name":           "a short name such as k8s-node",
		"spec":                    "a mapping with at least the field kubernetes",
		"spec.kubernetes":         "a mapping with the field version",
		"spec.kubernetes.version": "a full version such as v1.34.10",
		"source":                  "a file or directory on the host",
		"target":                  "an absolute path in the node",
	},
	Short: map[reflect.Type]string{
		reflect.TypeFor[ImageSource](): "an image reference or a mapping with one of registry, archive, docker or layout",
	},
	Complete: func(recipe *Recipe, dir string) []Problem {
		recipe.Default()
		return recipe.check(dir)
	},
	Together: repeatedNames,
}

// repeatedNames reports recipes of one file that have the same name.
func repeatedNames(documents []*strictyaml.Document[Recipe]) []Problem {
	var problems []Problem
	lines := map[string]int{}
	for _, document := range documents {
		name := document.Value.Metadata.Name
		line, _ := document.Positions.Find("metadata.name")
		if first, taken := lines[name]; taken && name != "" {
			problems = append(problems, document.Problem("metadata.name",
				"found %s again, first used in line %d; every recipe of a file needs its own name", strictyaml.Quote(name), first))
		} else {
			lines[name] = line
		}
	}
	return problems
}

// Load reads the recipes in the file at path, or in stdin when path is "-" (relative host paths then start from the working
// directory). A file holds one or several YAML documents. The recipes come back with defaults filled in and valid.
//
// Everything that is wrong with the input, a missing file included, comes back at once as one *InputError.
func Load(path string, stdin io.Reader) ([]*Document, error) {
	loaded, err := format.Load(path, stdin)
	if err != nil {
		return nil, err
	}
	documents := make([]*Document, 0, len(loaded))
	for _, d := range loaded {
		documents = append(documents, &Document{File: d.File, Dir: d.Dir, Recipe: d.Value, positions: d.Positions})
	}
	return documents, nil
}
