package docgen

import (
	"strings"
	"testing"
)

func TestPartsMustBeThere(t *testing.T) {
	for name, text := range map[string]string{
		"no part":  "# Recipes\n",
		"no end":   StartMark("fields") + "\n",
		"one part": StartMark("fields") + "\n" + EndMark + "\n",
		"twice":    strings.Repeat(StartMark("fields")+"\n"+EndMark+"\n", 2),
	} {
		if _, err := Replace([]byte(text), []Part{{"fields", "x\n"}, {"limits", "y\n"}}); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}
