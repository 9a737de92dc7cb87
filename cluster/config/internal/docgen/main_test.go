package main

import (
	"os"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/nodeimg/nodeimg/internal/strictyaml/docgen"
)

// TestUpToDate fails when the types, their comments or the defaults changed and "make generate" was not run.
func TestUpToDate(t *testing.T) {
	got, err := os.ReadFile("../../../../docs/cluster-config.md")
	if err != nil {
		t.Fatal(err)
	}
	made, err := parts()
	if err != nil {
		t.Fatal(err)
	}
	want, err := docgen.Replace(got, made)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), string(got)); diff != "" {
		t.Errorf("docs/cluster-config.md is stale, run \"make generate\" (-want +got):\n%s", diff)
	}
}
