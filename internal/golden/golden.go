// Package golden is for tests of what comes of text files: each of their cases is a txtar archive in testdata, whose last file says what is
// to come of the others. With the flag -update it is written anew.
package golden

import (
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/rogpeppe/go-internal/txtar"
)

var update = flag.Bool("update", false, "write what the tests found into their golden files")

// Archive is one case.
type Archive struct{ *txtar.Archive }

// File returns the content of the file with the name, or nothing when there is none.
func (a Archive) File(name string) string {
	for _, f := range a.Files {
		if f.Name == name {
			return string(f.Data)
		}
	}
	return ""
}

// Run calls test for each archive that the pattern matches, and compares what it returns with the archive's last file, which has the name
// want.
func Run(t *testing.T, pattern, want string, test func(t *testing.T, archive Archive) (got string)) {
	t.Helper()
	// A test may change its folder.
	pattern, err := filepath.Abs(pattern)
	if err != nil {
		t.Fatal(err)
	}
	paths, err := filepath.Glob(pattern)
	if err != nil || len(paths) == 0 {
		t.Fatalf("found no archives %s: %v", pattern, err)
	}
	for _, path := range paths {
		t.Run(strings.TrimSuffix(filepath.Base(path), ".txtar"), func(t *testing.T) {
			archive, err := txtar.ParseFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if len(archive.Files) == 0 || archive.Files[len(archive.Files)-1].Name != want {
				t.Fatalf("the last file of %s must be %s", path, want)
			}
			last := &archive.Files[len(archive.Files)-1]
			got := test(t, Archive{archive})
			if *update {
				last.Data = []byte(got)
				if err := os.WriteFile(path, txtar.Format(archive), 0o644); err != nil {
					t.Fatal(err)
				}
				return
			}
			if diff := cmp.Diff(string(last.Data), got); diff != "" {
				t.Errorf("%s (-want +got):\n%s", want, diff)
			}
		})
	}
}
