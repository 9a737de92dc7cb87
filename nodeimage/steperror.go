package nodeimage

import (
	"fmt"
	"os"
	"strings"

	"github.com/nodeimg/nodeimg/builder"
	"github.com/nodeimg/nodeimg/dockerfiles"
	"github.com/nodeimg/nodeimg/recipes"
)

// StepError is a failed build step with the Dockerfile lines and the recipe lines that caused it.
type StepError struct {
	// Step is what the builder says.
	Step *builder.StepError
	// Field of the recipe that the step comes from, for instance spec.run[0]; empty when it comes from none in particular.
	Field string
	// File, Line and Column of that field in the recipe.
	File         string
	Line, Column int

	dockerfile, recipe []string
}

func newStepError(document *recipes.Document, compiled *dockerfiles.Result, step *builder.StepError) *StepError {
	e := &StepError{Step: step, File: document.File}
	if len(step.Ranges) == 0 {
		return e
	}
	e.dockerfile = excerpt(string(compiled.Dockerfile), step.Ranges[0].StartLine, step.Ranges[0].EndLine)
	if e.Field = compiled.Field(step.Ranges[0].StartLine); e.Field == "" {
		return e
	}
	e.Line, e.Column = document.Position(e.Field)
	// A recipe that came through standard input cannot be shown again; its position still can.
	if text, err := os.ReadFile(document.File); err == nil && e.Line > 0 {
		e.recipe = excerpt(string(text), e.Line, fieldEnd(string(text), e.Line))
	}
	return e
}

// recipeLines bounds how much of a field is shown.
const recipeLines = 20

// fieldEnd returns the last line of the field that begins in the line first, counted from 1: what follows belongs to it as long as it is
// indented more, which holds for everything but oddly written flow style.
func fieldEnd(text string, first int) int {
	lines := strings.Split(text, "\n")
	indent := func(line string) int { return len(line) - len(strings.TrimLeft(line, " ")) }
	last := first
	for i := first; i < len(lines) && i < first+recipeLines; i++ {
		if strings.TrimSpace(lines[i]) == "" {
			continue
		}
		if indent(lines[i]) <= indent(lines[first-1]) {
			break
		}
		last = i + 1
	}
	return last
}

// excerpt returns the lines first to last of text, counted from 1, with their numbers.
func excerpt(text string, first, last int) []string {
	var out []string
	for i, line := range strings.Split(text, "\n") {
		if i+1 >= first && i+1 <= last {
			out = append(out, fmt.Sprintf("%5d | %s", i+1, line))
		}
	}
	return out
}

// Error shows the step, the Dockerfile's lines and the recipe's.
func (e *StepError) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%v", e.Step)
	if len(e.dockerfile) > 0 {
		fmt.Fprintf(&b, "\nthe Dockerfile that the recipe compiles to says:\n%s", strings.Join(e.dockerfile, "\n"))
	}
	if e.Field != "" && e.Line > 0 {
		fmt.Fprintf(&b, "\nwhich comes from %s:%d:%d: %s", e.File, e.Line, e.Column, e.Field)
		if len(e.recipe) > 0 {
			fmt.Fprintf(&b, "\n%s", strings.Join(e.recipe, "\n"))
		}
	}
	return b.String()
}

// Unwrap returns the builder's error.
func (e *StepError) Unwrap() error { return e.Step }
