package strictyaml

import (
	"cmp"
	"fmt"
	"math"
	"reflect"
	"slices"
	"strings"

	yamlv3 "gopkg.in/yaml.v3"
)

// walker compares a YAML tree with the Go type it is meant for. The decoder would accept too much (an unquoted 1.30 becomes the
// string "1.3", the key n becomes false) and says too little (no lines for unknown fields), so the walker looks at the nodes, which
// know how each scalar was written. It collects all problems, where every field stands, and what remains without the mistakes.
type walker struct {
	format    *description
	file      string
	offset    int
	positions map[string]position
	problems  []Problem
	// misspelt are required fields that are there under a wrong name, which is the only thing to say about them.
	misspelt []string
}

// MaxProblems bounds the mistakes that are shown, and those that the walk collects: a mapping full of unknown fields can be repeated by
// aliases of a few bytes, so their number is not bounded by the size of the file. That of correct fields is.
const MaxProblems = 1000

// isMeant tells whether the document means to be of this kind. If it is some other thing, that is the one problem it has.
func (w *walker) isMeant(node *yamlv3.Node) bool {
	w.positions[""] = w.at(node)
	if node.Kind != yamlv3.MappingNode {
		w.report(node, "", "found %s, expected a %s: a mapping with apiVersion %s and kind %s", describe(node), w.format.noun, w.format.apiVersion, w.format.kind)
		return false
	}
	for i := 0; i+1 < len(node.Content); i += 2 {
		key, value := node.Content[i], node.Content[i+1]
		if key.Value == "kind" && value.Kind == yamlv3.ScalarNode && value.ShortTag() == "!!str" && Nearest(value.Value, []string{w.format.kind}) == "" {
			w.report(value, "kind", "found %s, expected %s", Quote(value.Value), w.format.kind)
			return false
		}
	}
	return true
}

func (w *walker) at(node *yamlv3.Node) position {
	return position{w.offset + max(1, node.Line), max(1, node.Column)}
}

func (w *walker) report(node *yamlv3.Node, path, format string, args ...any) {
	at := w.at(node)
	w.problems = append(w.problems, Problem{File: w.file, Line: at.line, Column: at.column, Field: path, Message: fmt.Sprintf(format, args...)})
}

// broken returns a function that tells whether the walk found a problem with the field, with one that encloses it or with one in it.
func (w *walker) broken() func(path string) bool {
	faulty, enclosing := map[string]bool{}, map[string]bool{}
	for _, path := range w.misspelt {
		faulty[path] = true
	}
	for _, p := range w.problems {
		faulty[p.Field] = true
		for path := p.Field; path != "" && !enclosing[path]; path = parentPath(path) {
			enclosing[path] = true
		}
	}
	return func(path string) bool {
		if enclosing[path] {
			return true
		}
		for ; path != ""; path = parentPath(path) {
			if faulty[path] {
				return true
			}
		}
		return false
	}
}

// exhausted tells whether there were so many mistakes that the walk stops.
func (w *walker) exhausted() bool { return len(w.problems) > MaxProblems }

// walk compares node with the type and returns what is usable of it; ok is false when nothing is. The key is nil in lists and at the
// top; it is where a collection is said to stand, since the collection itself begins with its first element.
func (w *walker) walk(path string, node, key *yamlv3.Node, field Field) (value any, ok bool) {
	if w.exhausted() {
		return nil, false
	}
	at, t := node, field.Type
	if node.Kind == yamlv3.AliasNode {
		node = node.Alias
	}
	if key != nil && node.Kind != yamlv3.ScalarNode {
		at = key
	}
	w.positions[path] = w.at(at)

	if t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	if isNull(node) {
		w.report(at, path, "has no value, expected %s; give one or remove the line", w.format.expected(t))
		return nil, false
	}
	if w.format.short[t] != "" && node.Kind == yamlv3.ScalarNode {
		t = stringType
	}
	switch {
	case t.Kind() == reflect.Struct && node.Kind == yamlv3.MappingNode:
		return w.walkStruct(path, at, node, t), true
	case t.Kind() == reflect.Map && node.Kind == yamlv3.MappingNode:
		return w.walkMap(path, node, t.Elem()), true
	case t.Kind() == reflect.Slice && node.Kind == yamlv3.SequenceNode:
		list := make([]any, len(node.Content))
		for i, item := range node.Content {
			element, ok := w.walk(fmt.Sprintf("%s[%d]", path, i), item, nil, Field{Type: t.Elem()})
			if !ok { // A placeholder keeps the indexes of the others right.
				element = reflect.Zero(t.Elem()).Interface()
			}
			list[i] = element
		}
		return list, true
	case t.Kind() == reflect.String && node.Kind == yamlv3.ScalarNode:
		return w.walkString(path, at, node, field)
	case t.Kind() == reflect.Int && node.Kind == yamlv3.ScalarNode && node.ShortTag() == "!!int":
		var n int
		if node.Decode(&n) == nil {
			return n, w.within(path, at, node, float64(n), field)
		}
	case t.Kind() == reflect.Float64 && node.Kind == yamlv3.ScalarNode && (node.ShortTag() == "!!float" || node.ShortTag() == "!!int"):
		var n float64
		if node.Decode(&n) == nil && !math.IsNaN(n) && !math.IsInf(n, 0) {
			return n, w.within(path, at, node, n, field)
		}
	case t.Kind() == reflect.Bool && node.Kind == yamlv3.ScalarNode && node.ShortTag() == "!!bool":
		return strings.EqualFold(node.Value, "true"), true
	}
	w.report(at, path, "found %s, expected %s", describe(node), w.format.expected(t))
	return nil, false
}

// within reports a number that is not within the field's bounds.
func (w *walker) within(path string, at, node *yamlv3.Node, n float64, field Field) bool {
	if !field.outside(n) {
		return true
	}
	w.report(at, path, "found %s, expected %s", node.Value, field.bounds())
	return false
}

var stringType = reflect.TypeFor[string]()

func (w *walker) walkStruct(path string, at, node *yamlv3.Node, t reflect.Type) map[string]any {
	fields := FieldsOf(t)
	known := make([]string, len(fields))
	for i, f := range fields {
		known[i] = f.Name
	}
	result := map[string]any{}
	meant := map[string]bool{}
	w.eachPair(path, node, func(name string) string { return join(path, name) }, func(name string, key, value *yamlv3.Node) {
		i := slices.Index(known, name)
		if i < 0 {
			guess := Nearest(name, known)
			meant[guess] = true
			w.report(key, join(path, name), "unknown field, expected %s%s", OneOf(known), w.elsewhere(name, guess, known))
			return
		}
		if v, ok := w.walk(join(path, name), value, key, fields[i]); ok {
			result[name] = v
		}
	})
	for _, f := range fields {
		if w.exhausted() {
			break
		}
		child := join(path, f.Name)
		if _, present := w.positions[child]; f.Required && !present {
			if meant[f.Name] {
				w.misspelt = append(w.misspelt, child)
				continue
			}
			expectation := cmp.Or(w.format.expectations[child], w.format.expectations[f.Name], "a value")
			w.report(at, child, "is missing, expected %s", expectation)
		}
	}
	return result
}

func (w *walker) walkMap(path string, node *yamlv3.Node, element reflect.Type) map[string]any {
	result := map[string]any{}
	entry := func(name string) string { return path + "[" + name + "]" }
	w.eachPair(path, node, entry, func(name string, key, value *yamlv3.Node) {
		if v, ok := w.walk(entry(name), value, key, Field{Type: element}); ok {
			result[name] = v
		}
	})
	return result
}

// eachPair calls f for every key of a mapping that is a string and no repetition. The function child makes field paths of keys.
func (w *walker) eachPair(path string, node *yamlv3.Node, child func(name string) string, f func(name string, key, value *yamlv3.Node)) {
	lines := map[string]int{}
	for i := 0; i+1 < len(node.Content); i += 2 {
		key, value := node.Content[i], node.Content[i+1]
		if w.exhausted() {
			return
		}
		if key.Kind != yamlv3.ScalarNode {
			w.report(key, path, "found %s as a key, expected a name", describe(key))
			continue
		}
		if key.ShortTag() == "!!merge" {
			w.report(key, path, "found the merge key <<, which %ss do not have; write the fields out", w.format.noun)
			continue
		}
		if key.ShortTag() != "!!str" || isBoolWord(key) {
			w.report(key, child(key.Value), "found %s as a key, expected a string: put it in quotes, %q", describe(key), key.Value)
			continue
		}
		if first, again := lines[key.Value]; again {
			w.report(key, child(key.Value), "found twice, first in line %d; keep one of them", first)
			continue
		}
		lines[key.Value] = w.at(key).line
		f(key.Value, key, value)
	}
}

func (w *walker) walkString(path string, at, node *yamlv3.Node, field Field) (any, bool) {
	if node.ShortTag() == "!!str" && !isBoolWord(node) {
		return node.Value, true
	}
	if field.Example != "" && field.Pattern != nil && !field.Pattern.MatchString(node.Value) {
		// Quotes alone would not help.
		w.report(at, path, "found %s, expected a string such as %q", describe(node), field.Example)
		return nil, false
	}
	w.report(at, path, "found %s, expected a string: put it in quotes, %q", describe(node), node.Value)
	return nil, false
}

// boolWords are the plain words that YAML 1.1 (the decoder's dialect) takes for true and false and YAML 1.2 for text.
var boolWords = []string{"y", "n", "yes", "no", "on", "off", "true", "false"}

func isBoolWord(node *yamlv3.Node) bool {
	plain := node.Style&(yamlv3.DoubleQuotedStyle|yamlv3.SingleQuotedStyle|yamlv3.LiteralStyle|yamlv3.FoldedStyle|yamlv3.TaggedStyle) == 0
	return plain && slices.Contains(boolWords, strings.ToLower(node.Value))
}

func isNull(node *yamlv3.Node) bool {
	return node.Kind == yamlv3.ScalarNode && node.ShortTag() == "!!null"
}

// describe says what a node is, as a person would.
func describe(node *yamlv3.Node) string {
	switch node.Kind {
	case yamlv3.MappingNode:
		return "a mapping"
	case yamlv3.SequenceNode:
		return "a list"
	case yamlv3.AliasNode:
		return "an alias"
	}
	switch tag := node.ShortTag(); {
	case isBoolWord(node) || tag == "!!bool":
		return fmt.Sprintf("the truth value %s", node.Value)
	case tag == "!!int" || tag == "!!float":
		return fmt.Sprintf("the number %s", node.Value)
	case tag == "!!timestamp":
		return fmt.Sprintf("the date %s", node.Value)
	case tag == "!!null":
		return "nothing"
	case tag == "!!str":
		return Quote(node.Value)
	default:
		return fmt.Sprintf("%s with the tag %s", Quote(node.Value), tag)
	}
}

// expected names the YAML that the type wants.
func (d *description) expected(t reflect.Type) string {
	if d.short[t] != "" {
		return d.short[t]
	}
	switch {
	case t.Kind() == reflect.Slice && (t.Elem().Kind() == reflect.String):
		return "a list of strings"
	case t.Kind() == reflect.Slice:
		return "a list"
	case t.Kind() == reflect.Map:
		return "a mapping of strings to " + plural(t.Elem())
	case t.Kind() == reflect.Struct:
		names := make([]string, 0, t.NumField())
		for _, f := range FieldsOf(t) {
			names = append(names, f.Name)
		}
		if len(names) == 1 {
			return "a mapping with the field " + names[0]
		}
		return "a mapping with the fields " + strings.Join(names, ", ")
	case t.Kind() == reflect.Bool:
		return "true or false"
	case t.Kind() == reflect.Int:
		return "a whole number"
	case t.Kind() == reflect.Float64:
		return "a number"
	default:
		return "a string"
	}
}

// plural names several values of a mapping.
func plural(t reflect.Type) string {
	switch t.Kind() {
	case reflect.Bool:
		return "true or false"
	case reflect.Slice:
		return "lists of strings"
	default:
		return "strings"
	}
}

func join(path, name string) string {
	if path == "" {
		return name
	}
	return path + "." + name
}

// elsewhere guesses what an unknown field was meant to be: a near miss, or a field that belongs to another place.
func (w *walker) elsewhere(name, guess string, siblings []string) string {
	if guess != "" {
		return DidYouMean(name, siblings)
	}
	var places []string
	var search func(path string, t reflect.Type)
	search = func(path string, t reflect.Type) {
		if t.Kind() == reflect.Slice {
			path, t = path+"[]", t.Elem()
		}
		if t.Kind() != reflect.Struct {
			return
		}
		for _, f := range FieldsOf(t) {
			if f.Name == name {
				places = append(places, path)
			}
			search(join(path, f.Name), f.Type)
		}
	}
	search("", w.format.root)
	if len(places) == 0 || len(places) > 2 || slices.Contains(places, "") {
		return ""
	}
	return fmt.Sprintf("; %s belongs to %s", name, strings.Join(places, " or "))
}
