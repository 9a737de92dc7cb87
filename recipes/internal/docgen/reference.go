package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/invopop/jsonschema"
	"sigs.k8s.io/yaml"

	"github.com/nodeimg/nodeimg/internal/strictyaml/docgen"
	"github.com/nodeimg/nodeimg/recipes"
)

// reference is everything that the generated parts are written from.
type reference struct {
	*docgen.Reference
	// missing are the field values that validation refuses in this version, by field path.
	missing map[string][]refusal
	// severalPlatforms is what validation says about a recipe for two platforms.
	severalPlatforms string
}

// refusal is a value that this version cannot build, and what works in its place.
type refusal struct{ value, now string }

// minimal is the shortest recipe there is.
const minimal = `{apiVersion: nodeimg.dev/v1alpha1, kind: NodeImage, metadata: {name: node}, spec: {kubernetes: {version: v1.34.10}}}`

// notYet is how validation begins to say that a value is right but not built by this version; what works instead follows.
const notYet = "which this version of nodeimg cannot build yet; what works now is "

func newReference() (*reference, error) {
	documents, err := recipes.Load("-", strings.NewReader(minimal))
	if err != nil {
		return nil, fmt.Errorf("loading the shortest recipe: %w", err)
	}
	generic, err := docgen.New(recipes.Schema(), documents[0].Recipe)
	if err != nil {
		return nil, err
	}
	r := &reference{Reference: generic, missing: map[string][]refusal{}}
	r.Varying = varying
	r.Note = func(path string, value any) string {
		if slices.ContainsFunc(r.missing[path], func(m refusal) bool { return m.value == value }) {
			return " (not yet)"
		}
		return ""
	}
	// What the recipe itself says is no default.
	for _, path := range []string{"apiVersion", "kind", "metadata.name", "spec.kubernetes.version"} {
		delete(r.Defaults, path)
	}
	if r.severalPlatforms, err = complaint("spec.platforms", []string{"linux/amd64", "linux/arm64"}); err != nil {
		return nil, err
	}
	return r, r.EachField(r.tryValues)
}

// tryValues validates a recipe with each allowed value of the field and keeps those that this version cannot build.
func (r *reference) tryValues(path string, field *jsonschema.Schema) error {
	for _, value := range field.Enum {
		message, err := complaint(path, value)
		if err != nil {
			return err
		}
		if _, now, found := strings.Cut(message, notYet); found {
			r.missing[path] = append(r.missing[path], refusal{fmt.Sprint(value), now})
		}
	}
	return nil
}

// complaint is what validation says about the field when the shortest recipe gets the value in it.
func complaint(path string, value any) (string, error) {
	var recipe map[string]any
	if err := yaml.Unmarshal([]byte(minimal), &recipe); err != nil {
		return "", err
	}
	at := recipe
	steps := strings.Split(path, ".")
	for _, step := range steps[:len(steps)-1] {
		if at[step] == nil {
			at[step] = map[string]any{}
		}
		at = at[step].(map[string]any)
	}
	at[steps[len(steps)-1]] = value
	text, err := json.Marshal(recipe)
	if err != nil {
		return "", err
	}
	_, err = recipes.Load("-", strings.NewReader(string(text)))
	var input *recipes.InputError
	if err != nil && !errors.As(err, &input) {
		return "", err
	}
	if input != nil {
		for _, problem := range input.Problems {
			if problem.Field == path {
				return problem.Message, nil
			}
		}
	}
	return "", nil
}
