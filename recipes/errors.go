package recipes

import "github.com/nodeimg/nodeimg/internal/strictyaml"

// Problem is one thing that is wrong with what the user wrote, and where.
type Problem = strictyaml.Problem

// InputError is what commands return for bad input: everything that is wrong with it, at once. It makes nodeimg exit with status 2.
type InputError = strictyaml.InputError

// NewInputError returns an error with all the problems, those of each file sorted by position. At least one problem must be given.
func NewInputError(problems ...Problem) *InputError { return strictyaml.NewInputError(problems...) }

// InputErrorf returns an error with one problem that is in no file, for instance in a flag's value.
func InputErrorf(format string, args ...any) *InputError {
	return strictyaml.InputErrorf(format, args...)
}

// DidYouMean returns "; did you mean X?" when word is a near miss of one of the candidates, else "".
func DidYouMean(word string, candidates []string) string {
	return strictyaml.DidYouMean(word, candidates)
}
