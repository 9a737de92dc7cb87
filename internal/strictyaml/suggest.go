package strictyaml

import (
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/agext/levenshtein"
)

// Nearest returns the candidate that a person who wrote word most likely meant, or "".
func Nearest(word string, candidates []string) string {
	best, least := "", 0
	for _, c := range candidates {
		distance := levenshtein.Distance(strings.ToLower(word), strings.ToLower(c), nil)
		if distance == 2 && sortedLetters(word) == sortedLetters(c) {
			distance = 1 // Two letters that changed places are one slip.
		}
		// A third of the letters may differ: more than that is another word, not a slip.
		allowed := max(1, utf8.RuneCountInString(c)/3)
		if distance <= allowed && (best == "" || distance < least) {
			best, least = c, distance
		}
	}
	return best
}

func sortedLetters(s string) string {
	letters := []rune(strings.ToLower(s))
	slices.Sort(letters)
	return string(letters)
}

// DidYouMean returns "; did you mean X?" when word is a near miss of one of the candidates, else "".
func DidYouMean(word string, candidates []string) string {
	if c := Nearest(word, candidates); c != "" && c != word {
		return fmt.Sprintf("; did you mean %s?", c)
	}
	return ""
}

// Quote renders what the user wrote for an error message: quoted, in one line, shortened when long.
func Quote(s string) string {
	const limit = 80
	if utf8.RuneCountInString(s) > limit {
		s = string([]rune(s)[:limit]) + "…"
	}
	return fmt.Sprintf("%q", s)
}

// OneOf renders the values that a field accepts, for instance "debian or ubuntu".
func OneOf(values []string) string {
	if len(values) == 1 {
		return values[0]
	}
	return strings.Join(values[:len(values)-1], ", ") + " or " + values[len(values)-1]
}
