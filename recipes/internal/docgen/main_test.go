package main

import (
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/nodeimg/nodeimg/internal/strictyaml/docgen"
)

const page = "../../../docs/recipe.md"

// TestUpToDate fails when the types, their comments, the defaults or the limits changed and "make generate" was not run.
func TestUpToDate(t *testing.T) {
	got, err := os.ReadFile(page)
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
		t.Errorf("docs/recipe.md is stale, run \"make generate\" (-want +got):\n%s", diff)
	}
}

// TestTriesValues holds that the limits are found: the shape of validation's message is all that tells them.
func TestTriesValues(t *testing.T) {
	r, err := newReference()
	if err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{"spec.cri.name": "", "spec.cni.name": "kindnet calico"} {
		var got []string
		for _, m := range r.missing[path] {
			got = append(got, m.value)
		}
		if strings.Join(got, " ") != want {
			t.Errorf("%s: found that %q cannot be built, expected %q", path, got, want)
		}
	}
	if got := r.severalPlatforms; !strings.Contains(got, "one at a time") {
		t.Errorf("two platforms: %q", got)
	}
}
