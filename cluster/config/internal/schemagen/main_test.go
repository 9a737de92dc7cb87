package main

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/nodeimg/nodeimg/cluster/config"
)

// TestUpToDate fails when the types or their comments changed and "make generate" was not run.
func TestUpToDate(t *testing.T) {
	t.Chdir("../..")
	want, err := generate()
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), string(config.Schema())); diff != "" {
		t.Errorf("cluster/config/schema.json is stale, run \"make generate\" (-want +got):\n%s", diff)
	}
}
