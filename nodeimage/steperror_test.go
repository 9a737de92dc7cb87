package nodeimage

import "testing"

func TestFieldEnd(t *testing.T) {
	text := "spec:\n  run:\n  - |\n    one\n\n    two\n\n  - three\n  - four # last\n"
	for first, want := range map[int]int{3: 6, 8: 8, 9: 9} {
		if got := fieldEnd(text, first); got != want {
			t.Errorf("the field of line %d ends in line %d, want %d", first, got, want)
		}
	}
}
