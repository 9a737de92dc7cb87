package modules

import (
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/rogpeppe/go-internal/txtar"
	"golang.org/x/mod/module"
)

var update = flag.Bool("update", false, "rewrite the golden files")

// TestGoMod compares the go.mod written for upstream-like ones with golden files.
func TestGoMod(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txtar")
	if err != nil || len(files) == 0 {
		t.Fatalf("finding golden files: %v, found %d", err, len(files))
	}
	for _, path := range files {
		t.Run(strings.TrimSuffix(filepath.Base(path), ".txtar"), func(t *testing.T) {
			archive, err := txtar.ParseFile(path)
			if err != nil {
				t.Fatal(err)
			}
			sections := map[string]string{}
			for _, f := range archive.Files {
				sections[f.Name] = string(f.Data)
			}
			fields := strings.Fields(sections["project"])
			p := project{name: fields[0], version: fields[1], modules: fields[2:]}
			if pin := strings.Fields(sections["pin"]); len(pin) == 2 {
				p.pins = []module.Version{{Path: pin[0], Version: pin[1]}}
			}
			p.main, p.apart = sections["apart"], sections["apart"] != ""
			got, err := goMod(p, []byte(sections["upstream/go.mod"]))
			if err != nil {
				t.Fatal(err)
			}
			if *update {
				if _, known := sections["go.mod"]; !known {
					archive.Files = append(archive.Files, txtar.File{Name: "go.mod"})
				}
				for i := range archive.Files {
					if archive.Files[i].Name == "go.mod" {
						archive.Files[i].Data = got
					}
				}
				if err := os.WriteFile(path, txtar.Format(archive), 0o644); err != nil {
					t.Fatal(err)
				}
				return
			}
			if diff := cmp.Diff(sections["go.mod"], string(got)); diff != "" {
				t.Errorf("go.mod (-want +got):\n%s", diff)
			}
		})
	}
}

func TestStagingVersionRefusesOtherMajors(t *testing.T) {
	if _, err := stagingVersion("v2.0.0"); err == nil || !strings.Contains(err.Error(), "v2.0.0") {
		t.Errorf("error %v does not name the version", err)
	}
}

func TestLanguageFlags(t *testing.T) {
	vendorMod := []byte("module github.com/docker/docker\n\ngo 1.24.0\n")
	p := project{version: "v28.5.2+incompatible", modules: []string{"github.com/docker/docker"}}
	if got, want := languageFlags(p, vendorMod), "-gcflags=github.com/docker/docker/...=-lang=go1.24"; got != want {
		t.Errorf("without a go.mod of its own: %q, want %q", got, want)
	}
	p.version = "v2.0.0"
	if got := languageFlags(p, vendorMod); got != "" {
		t.Errorf("with a go.mod, which the go command reads itself: %q", got)
	}
}
