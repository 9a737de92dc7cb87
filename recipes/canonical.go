package recipes

import (
	"encoding/json"
	"fmt"
	"slices"

	"github.com/opencontainers/go-digest"
)

// Canonical returns the recipe in the form that its digest is taken of: JSON with all defaults filled in, fields in the order of the
// type, map keys and package names sorted. Recipes that mean the same have the same canonical form, however they are written. Other
// lists keep their order, which can matter.
func (r *Recipe) Canonical() []byte {
	var c Recipe
	if err := json.Unmarshal(mustMarshal(r), &c); err != nil {
		panic(fmt.Sprintf("copying recipe: %v", err)) // Cannot happen: a recipe decodes from its own encoding.
	}
	c.Default()
	slices.Sort(c.Spec.Packages)
	return mustMarshal(c)
}

// Digest returns the sha256 digest of the canonical recipe (sha256:…). Comments, order of fields and spelling do not change it.
func (r *Recipe) Digest() string { return digest.FromBytes(r.Canonical()).String() }

// ContentID returns the id of the image that recipe and lock determine: the sha256 digest of the canonical recipe, a newline and the
// lock as JSON. It is the value of LabelRecipe.
func ContentID(r *Recipe, l *Lock) string {
	return digest.FromBytes(append(append(r.Canonical(), '\n'), mustMarshal(l)...)).String()
}

// mustMarshal encodes plain values, which cannot fail.
func mustMarshal(v any) []byte {
	text, err := json.Marshal(v)
	if err != nil {
		panic(fmt.Sprintf("encoding %T: %v", v, err))
	}
	return text
}
