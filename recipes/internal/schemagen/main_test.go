package main

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/nodeimg/nodeimg/recipes"
)

// TestUpToDate fails when the types or their comments changed and "make generate" was not run.
func TestUpToDate(t *testing.T) {
	t.Chdir("../..")
	want, err := generate()
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), string(recipes.Schema())); diff != "" {
		t.Errorf("recipes/schema.json is stale, run \"make generate\" (-want +got):\n%s", diff)
	}
}
