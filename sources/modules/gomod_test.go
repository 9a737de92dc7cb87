package modules

import (
	"strings"
	"testing"

	"golang.org/x/mod/module"

	"github.com/nodeimg/nodeimg/internal/golden"
)

// TestGoMod compares the go.mod written for upstream-like ones with golden files.
func TestGoMod(t *testing.T) {
	golden.Run(t, "testdata/*.txtar", "go.mod", func(t *testing.T, archive golden.Archive) string {
		fields := strings.Fields(archive.File("project"))
		p := project{name: fields[0], version: fields[1], modules: fields[2:]}
		if pin := strings.Fields(archive.File("pin")); len(pin) == 2 {
			p.pins = []module.Version{{Path: pin[0], Version: pin[1]}}
		}
		p.main = archive.File("apart")
		p.apart = p.main != ""
		got, err := goMod(p, []byte(archive.File("upstream/go.mod")))
		if err != nil {
			t.Fatal(err)
		}
		return string(got)
	})
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
