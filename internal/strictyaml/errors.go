package strictyaml

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
)

// Problem is one thing that is wrong with what the user wrote, and where.
type Problem struct {
	// File that holds the mistake, as the user named it; empty when the mistake is not in a file (a flag, an argument).
	File string
	// Line and Column count from 1, the column in characters; both are 0 when the whole file is meant.
	Line, Column int
	// Field is the field, for instance spec.preload.images[2]; empty when no field is meant.
	Field string
	// Message says what was found, what was expected and, for near misses, what was probably meant.
	Message string
}

// String renders the problem as file:line:column: field: message, without the parts that are empty.
func (p Problem) String() string {
	var b strings.Builder
	if p.File != "" {
		b.WriteString(p.File)
		if p.Line > 0 {
			fmt.Fprintf(&b, ":%d:%d", p.Line, p.Column)
		}
		b.WriteString(": ")
	}
	if p.Field != "" {
		b.WriteString(p.Field + ": ")
	}
	b.WriteString(p.Message)
	return b.String()
}

// InputError is what commands return for bad input: everything that is wrong with it, at once. It makes nodeimg exit with status 2.
type InputError struct {
	// Problems is never empty; those of one file are sorted by position.
	Problems []Problem
}

// NewInputError returns an error with all the problems, those of each file sorted by position. At least one problem must be given.
func NewInputError(problems ...Problem) *InputError {
	files := map[string]int{}
	for _, p := range problems {
		if _, seen := files[p.File]; !seen {
			files[p.File] = len(files)
		}
	}
	sorted := slices.Clone(problems)
	slices.SortStableFunc(sorted, func(a, b Problem) int {
		return cmp.Or(cmp.Compare(files[a.File], files[b.File]), cmp.Compare(a.Line, b.Line), cmp.Compare(a.Column, b.Column))
	})
	return &InputError{Problems: sorted}
}

// InputErrorf returns an error with one problem that is in no file, for instance in a flag's value.
func InputErrorf(format string, args ...any) *InputError {
	return NewInputError(Problem{Message: fmt.Sprintf(format, args...)})
}

// Error renders one problem per line.
func (e *InputError) Error() string {
	lines := make([]string, len(e.Problems))
	for i, p := range e.Problems {
		lines[i] = p.String()
	}
	return strings.Join(lines, "\n")
}
