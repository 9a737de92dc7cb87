package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/invopop/jsonschema"
	"sigs.k8s.io/yaml"

	"github.com/nodeimg/nodeimg/recipes"
)

// reference is everything that the generated parts are written from.
type reference struct {
	schema jsonschema.Schema
	// defaults are the values of a recipe that says nothing but its name and Kubernetes version, by field path.
	defaults map[string]any
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
	r := &reference{defaults: map[string]any{}, missing: map[string][]refusal{}}
	if err := json.Unmarshal(recipes.Schema(), &r.schema); err != nil {
		return nil, fmt.Errorf("reading the schema: %w", err)
	}
	documents, err := recipes.Load("-", strings.NewReader(minimal))
	if err != nil {
		return nil, fmt.Errorf("loading the shortest recipe: %w", err)
	}
	text, err := json.Marshal(documents[0].Recipe)
	if err != nil {
		return nil, err
	}
	var whole map[string]any
	if err := json.Unmarshal(text, &whole); err != nil {
		return nil, err
	}
	flatten("", whole, r.defaults)
	// What the recipe itself says is no default.
	for _, path := range []string{"apiVersion", "kind", "metadata.name", "spec.kubernetes.version"} {
		delete(r.defaults, path)
	}
	if r.severalPlatforms, err = complaint("spec.platforms", []string{"linux/amd64", "linux/arm64"}); err != nil {
		return nil, err
	}
	return r, r.eachField(r.tryValues)
}

// flatten adds the leaves of a decoded JSON value by their paths.
func flatten(path string, value any, into map[string]any) {
	object, ok := value.(map[string]any)
	if !ok {
		into[path] = value
		return
	}
	for name, v := range object {
		flatten(strings.TrimPrefix(path+"."+name, "."), v, into)
	}
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

// eachField visits the fields of the recipe itself, not those of list elements, in the order of the schema.
func (r *reference) eachField(visit func(path string, field *jsonschema.Schema) error) error {
	for _, section := range r.sections() {
		if strings.Contains(section.path, "[]") {
			continue
		}
		for pair := section.object.Properties.Oldest(); pair != nil; pair = pair.Next() {
			if err := visit(strings.TrimPrefix(section.path+"."+pair.Key, "."), pair.Value); err != nil {
				return err
			}
		}
	}
	return nil
}

// section is one mapping of the recipe.
type section struct {
	path        string
	object      *jsonschema.Schema
	description string
}

// sections lists the mappings from the outside in.
func (r *reference) sections() []section {
	sections := []section{{object: &r.schema, description: r.schema.Description}}
	for i := 0; i < len(sections); i++ {
		s := sections[i]
		for pair := s.object.Properties.Oldest(); pair != nil; pair = pair.Next() {
			target, suffix := pair.Value, ""
			if target.Items != nil {
				target, suffix = target.Items, "[]"
			}
			name := definitionName(target)
			if name == "" {
				continue
			}
			inner := section{path: strings.TrimPrefix(s.path+"."+pair.Key+suffix, "."), object: r.schema.Definitions[name]}
			inner.description = inner.object.Description
			if choices := inner.object.OneOf; len(choices) > 0 {
				mapping := slices.IndexFunc(choices, func(c *jsonschema.Schema) bool { return c.Properties != nil })
				inner.object = choices[mapping]
			}
			sections = append(sections, inner)
		}
	}
	return sections
}

func definitionName(field *jsonschema.Schema) string {
	name, _ := strings.CutPrefix(field.Ref, "#/$defs/")
	return name
}
