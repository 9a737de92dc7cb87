package recipes

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestExpandPatterns(t *testing.T) {
	// The folder's own name reads like a pattern.
	dir := filepath.Join(t.TempDir(), "a[b]*", "recipe")
	for _, name := range []string{"images/b.tar", "images/a.tar", "images/[x].tar", "images/c.tgz", "images/d.tar/not-a-file", "../beside/e.tar"} {
		file := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, nil, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	archives := func(files ...string) []ImageSource {
		list := make([]ImageSource, len(files))
		for i, file := range files {
			list[i] = ImageSource{Archive: file}
		}
		return list
	}
	for _, test := range []struct {
		source ImageSource
		want   []ImageSource
	}{
		{ImageSource{Archive: "images/*.tar"}, archives("images/[x].tar", "images/a.tar", "images/b.tar")},
		{ImageSource{Archive: "images/[x].tar"}, archives("images/[x].tar")},
		{ImageSource{Archive: "images/[abc].t[ag]*"}, archives("images/a.tar", "images/b.tar", "images/c.tgz")},
		{ImageSource{Archive: "*/?.tar"}, archives("images/a.tar", "images/b.tar")},
		{ImageSource{Archive: "../beside/*"}, archives("../beside/e.tar")},
		{ImageSource{Archive: patternEscape.Replace(dir) + "/images/*.tgz"}, archives(filepath.Join(dir, "images/c.tgz"))},
		{ImageSource{Archive: "images/missing.tar"}, archives("images/missing.tar")},
		{ImageSource{Archive: "images/a.tar", Name: "a:1"}, []ImageSource{{Archive: "images/a.tar", Name: "a:1"}}},
		{ImageSource{Registry: "a:1"}, []ImageSource{{Registry: "a:1"}}},
	} {
		got, err := test.source.Expand(dir)
		if err != nil {
			t.Errorf("%s: %v", test.source, err)
		} else if diff := cmp.Diff(test.want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", test.source, diff)
		}
	}
	for _, pattern := range []string{"images/*.zip", "images/[", "*.tar", "images/d.*"} {
		if got, err := (ImageSource{Archive: pattern}).Expand(dir); err == nil {
			t.Errorf("%s gives %v", pattern, got)
		}
	}
}
