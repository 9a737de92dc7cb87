package strictyaml

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"strconv"
	"strings"
	"unicode/utf8"

	yamlv3 "gopkg.in/yaml.v3"
	"sigs.k8s.io/yaml"
)

// MaxSize is the largest file that Load reads, in bytes. What is written by hand is smaller; what is larger is some other file.
const MaxSize = 1 << 20

// Format is a kind of documents that are read into values of a type.
type Format[T any] struct {
	// Noun is what people call such a document, for instance recipe.
	Noun string
	// APIVersion and Kind say what a document is.
	APIVersion, Kind string
	// Empty says of a file without any document what to do.
	Empty string
	// Expectations say what belongs into required fields, by their paths or names, for the message that they are missing.
	Expectations map[string]string
	// Short are structs that can also be written as a string, with what messages call them.
	Short map[reflect.Type]string
	// Complete fills in the defaults of a decoded document, whose relative host paths start from dir, and returns what is wrong with it.
	Complete func(value *T, dir string) []Problem
	// Together returns what is wrong with the documents of one file beside each other; it may be nil.
	Together func(documents []*Document[T]) []Problem
}

// description is what a walker needs to know of a Format.
type description struct {
	noun, apiVersion, kind string
	expectations           map[string]string
	short                  map[reflect.Type]string
	root                   reflect.Type
}

// Document is one document of a file, complete with its defaults, and where its fields stand.
type Document[T any] struct {
	// File is the file as the user named it, or "<stdin>".
	File string
	// Dir is the directory that the document's relative host paths start from.
	Dir string
	// Value is what Format.Complete has made of the document.
	Value T
	// Positions say where its fields stand.
	Positions Positions
}

// Positions are where the fields of a document stand. The zero value knows of none.
type Positions struct{ known map[string]position }

// position counts lines and columns from 1.
type position struct{ line, column int }

// Find returns where a field stands, counted from 1. The path is written as in Problem.Field, for instance "spec.preload.images[2]" or
// "spec.mirrors[registry.k8s.io]". A field that the file does not hold, because it was defaulted, is where its nearest enclosing field is;
// the empty path is the start of the document.
func (p Positions) Find(fieldPath string) (line, column int) {
	for {
		if at, ok := p.known[fieldPath]; ok {
			return at.line, at.column
		}
		if fieldPath == "" {
			return 1, 1
		}
		fieldPath = parentPath(fieldPath)
	}
}

// Problem describes a mistake in the field of the document.
func (d *Document[T]) Problem(fieldPath, format string, args ...any) Problem {
	line, column := d.Positions.Find(fieldPath)
	return Problem{File: d.File, Line: line, Column: column, Field: fieldPath, Message: fmt.Sprintf(format, args...)}
}

// parentPath drops the last step of a field path. Map keys may hold dots, so a bracket counts as a whole.
func parentPath(path string) string {
	if strings.HasSuffix(path, "]") {
		if i := strings.LastIndexByte(path, '['); i >= 0 {
			return path[:i]
		}
	}
	if i := strings.LastIndexByte(path, '.'); i >= 0 {
		return path[:i]
	}
	return ""
}

// Load reads the documents in the file at path, or in stdin when path is "-" (relative host paths then start from the working
// directory). A file holds one or several YAML documents. They come back with defaults filled in and valid.
//
// Everything that is wrong with the input, a missing file included, comes back at once as one *InputError.
func (f Format[T]) Load(path string, stdin io.Reader) ([]*Document[T], error) {
	file, dir := path, filepath.Dir(path)
	if path == "-" {
		file, dir = "<stdin>", "."
	}
	text, err := readLimited(f.Noun, path, stdin)
	if err != nil {
		return nil, err
	}
	var documents []*Document[T]
	var problems []Problem
	for _, p := range split(text) {
		if len(problems) > MaxProblems {
			break
		}
		document, found := f.parse(file, dir, p)
		problems = append(problems, found...)
		if document != nil {
			documents = append(documents, document)
		}
	}
	if f.Together != nil {
		problems = append(problems, f.Together(documents)...)
	}
	if len(documents) == 0 && len(problems) == 0 {
		problems = append(problems, Problem{File: file, Line: 1, Column: 1, Message: f.Empty})
	}
	if len(problems) > 0 {
		return nil, shorten(NewInputError(problems...), f.Noun)
	}
	return documents, nil
}

// shorten cuts a list of problems that nobody would read to its end.
func shorten(err *InputError, noun string) *InputError {
	if len(err.Problems) > MaxProblems {
		err.Problems[MaxProblems].Field = ""
		err.Problems[MaxProblems].Message = fmt.Sprintf("has more mistakes than are shown; is this a %s?", noun)
		err.Problems = err.Problems[:MaxProblems+1]
	}
	return err
}

// readLimited returns the whole file, at most MaxSize bytes of it.
func readLimited(noun, path string, stdin io.Reader) ([]byte, error) {
	r, name := stdin, "<stdin>"
	if path != "-" {
		name = path
		f, err := os.Open(path)
		if err != nil {
			var cause *os.PathError
			if errors.As(err, &cause) {
				err = cause.Err
			}
			return nil, NewInputError(Problem{File: name, Message: fmt.Sprintf("reading %s: %v", noun, err)})
		}
		defer f.Close()
		if info, err := f.Stat(); err == nil && info.IsDir() {
			return nil, NewInputError(Problem{File: name, Message: fmt.Sprintf("reading %s: is a directory, expected a YAML file", noun)})
		}
		r = f
	}
	text, err := io.ReadAll(io.LimitReader(r, MaxSize+1))
	switch {
	case err != nil:
		return nil, fmt.Errorf("reading %s %s: %w", noun, name, err)
	case len(text) > MaxSize:
		return nil, NewInputError(Problem{File: name, Message: fmt.Sprintf("is larger than %d bytes, which no %s is", MaxSize, noun)})
	case !utf8.Valid(text):
		return nil, NewInputError(Problem{File: name, Message: "is not UTF-8 text, expected a YAML file"})
	}
	return bytes.TrimPrefix(text, []byte("\ufeff")), nil
}

// part is the text of one YAML document and the number of lines of the file before it.
type part struct {
	text   []byte
	offset int
}

// documentStart is the marker before a document. YAML allows it at the start of a line nowhere else, block scalars included
// (YAML 1.2.2, 9.1.2), so the text can be cut there without parsing it.
var documentStart = regexp.MustCompile(`(?m)^---(?:[ \t\r]|$)`)

// split cuts a file into its documents, the markers included.
func split(text []byte) []part {
	var parts []part
	start, line := 0, 0
	for _, match := range documentStart.FindAllIndex(text, -1) {
		if match[0] > start {
			parts = append(parts, part{text[start:match[0]], line})
			line += bytes.Count(text[start:match[0]], []byte("\n"))
		}
		start = match[0]
	}
	return append(parts, part{text[start:], line})
}

// parse reads one document. It returns no document when the text is something else altogether or holds nothing but comments. Mistakes in
// its structure do not keep the rest of it from being validated.
func (f Format[T]) parse(file, dir string, p part) (*Document[T], []Problem) {
	var root, more yamlv3.Node
	decoder := yamlv3.NewDecoder(bytes.NewReader(p.text))
	if err := decoder.Decode(&root); errors.Is(err, io.EOF) {
		return nil, nil
	} else if err != nil {
		return nil, []Problem{syntaxProblem(file, p, err)}
	}
	if err := decoder.Decode(&more); !errors.Is(err, io.EOF) {
		return nil, []Problem{{File: file, Line: p.offset + max(1, more.Line), Column: max(1, more.Column),
			Message: "found text after the end of the document (\"...\"); start another document with \"---\""}}
	}
	node := root.Content[0]
	if node.Kind == yamlv3.ScalarNode && node.ShortTag() == "!!null" {
		return nil, nil
	}

	typ := reflect.TypeFor[T]()
	w := &walker{
		format: &description{noun: f.Noun, apiVersion: f.APIVersion, kind: f.Kind, expectations: f.Expectations, short: f.Short, root: typ},
		file:   file, offset: p.offset, positions: map[string]position{},
	}
	if !w.isMeant(node) {
		return nil, w.problems
	}
	pruned, _ := w.walk("", node, nil, Field{Type: typ})
	if w.exhausted() {
		return nil, w.problems
	}
	document := &Document[T]{File: file, Dir: dir, Positions: Positions{w.positions}}
	var err error
	if len(w.problems) == 0 {
		err = yaml.UnmarshalStrict(p.text, &document.Value)
	} else {
		err = decodePruned(pruned, &document.Value)
	}
	if err != nil {
		return nil, append(w.problems, Problem{File: file, Line: p.offset + 1, Column: 1, Message: fmt.Sprintf("decoding %s: %v", f.Noun, err)})
	}

	problems, broken := w.problems, w.broken()
	for _, found := range f.Complete(&document.Value, dir) {
		// What is known to be broken or missing was reported where it stands.
		if !broken(found.Field) {
			problems = append(problems, document.Problem(found.Field, "%s", found.Message))
		}
	}
	return document, problems
}

// decodePruned decodes what is left of a document whose structure has mistakes, so that the values in it can be checked as well.
func decodePruned(pruned, value any) error {
	text, err := json.Marshal(pruned)
	if err != nil {
		return err
	}
	return json.Unmarshal(text, value)
}

// yaml.v3 reports positions only inside its messages, and some mistakes without any.
var (
	syntaxLine    = regexp.MustCompile(`^yaml: line (\d+): `)
	unknownAnchor = regexp.MustCompile(`unknown anchor '(.*)' referenced`)
)

// syntaxProblem turns yaml.v3's error into a problem at the line it names.
func syntaxProblem(file string, p part, err error) Problem {
	lines := strings.Split(string(p.text), "\n")
	message, line := err.Error(), 1
	if match := syntaxLine.FindStringSubmatch(message); match != nil {
		line, _ = strconv.Atoi(match[1])
		message = message[len(match[0]):]
	} else if match := unknownAnchor.FindStringSubmatch(message); match != nil {
		for i, text := range lines {
			if strings.Contains(text, "*"+match[1]) {
				line = i + 1
				break
			}
		}
	}
	line = min(max(line, 1), len(lines))
	text := lines[line-1]
	content := strings.TrimLeft(text, " \t")
	hint := ""
	if strings.Contains(text[:len(text)-len(content)], "\t") {
		hint = "; indent with spaces, YAML does not allow tabs"
	}
	return Problem{File: file, Line: p.offset + line, Column: 1 + len(text) - len(content),
		Message: fmt.Sprintf("found %s, which is not valid YAML: %s%s", Quote(strings.TrimSpace(text)), strings.TrimPrefix(message, "yaml: "), hint)}
}
