package layers

import (
	"encoding/json"
	"errors"
	"io"
	"maps"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/nodeimg/nodeimg"

// levels are the rooms of the house: a package imports only packages of lower levels and of its own folder.
var levels = map[string]int{
	"internal":    0,
	"recipes":     1,
	"dockerfiles": 2,
	"preload":     2,
	"sources":     3,
	"builder":     4,
	"nodeimage":   5,
	"cluster":     6,
	"cmd":         7,
	"test":        8,
}

// owners are libraries that only the packages below one of the folders may import.
var owners = map[string][]string{
	"github.com/docker/docker": {"internal/dockerengine", "test/internal/node"},
}

// pkg is what go list says about a package.
type pkg struct {
	ImportPath   string
	GoFiles      []string
	Imports      []string
	TestImports  []string
	XTestImports []string
}

func list(t *testing.T) []pkg {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "go", "list", "-e", "-json=ImportPath,GoFiles,Imports,TestImports,XTestImports", module+"/...")
	out, err := cmd.Output()
	if err != nil {
		if exit := new(exec.ExitError); errors.As(err, &exit) {
			t.Fatalf("%s: %v\n%s", cmd, err, exit.Stderr)
		}
		t.Fatalf("%s: %v", cmd, err)
	}
	var packages []pkg
	for decoder := json.NewDecoder(strings.NewReader(string(out))); ; {
		var p pkg
		err := decoder.Decode(&p)
		if errors.Is(err, io.EOF) {
			return packages
		}
		if err != nil {
			t.Fatalf("reading go list's answer: %v", err)
		}
		packages = append(packages, p)
	}
}

// room is the folder of the repository's root that an import path of the module lies in.
func room(path string) (name string, ok bool) {
	rest, ok := strings.CutPrefix(path, module+"/")
	if !ok {
		return "", false
	}
	name, _, _ = strings.Cut(rest, "/")
	return name, true
}

func TestImportsGoOneWay(t *testing.T) {
	packages := list(t)
	if len(packages) < 10 {
		t.Fatalf("go list found %d packages: it looks at the wrong tree", len(packages))
	}
	for _, p := range packages {
		from, ok := room(p.ImportPath)
		if !ok {
			t.Errorf("%s lies outside every room", p.ImportPath)
			continue
		}
		level, known := levels[from]
		if !known {
			t.Errorf("%s: folder %s has no level; known are %v", p.ImportPath, from, slices.Sorted(maps.Keys(levels)))
			continue
		}
		for _, imported := range p.Imports {
			to, ok := room(imported)
			if ok && to != from && levels[to] >= level {
				t.Errorf("%s (level %d) imports %s (level %d); a package imports only lower levels", p.ImportPath, level, imported, levels[to])
			}
		}
		// Tests may use the test world, but no package that comes later on the way of the data.
		for _, imported := range slices.Concat(p.TestImports, p.XTestImports) {
			to, ok := room(imported)
			if ok && to != from && to != "test" && levels[to] >= level {
				t.Errorf("a test of %s (level %d) imports %s (level %d); a package imports only lower levels", p.ImportPath, level, imported, levels[to])
			}
		}
	}
}

func TestLibrariesHaveOneOwner(t *testing.T) {
	seen := map[string]bool{}
	for _, p := range list(t) {
		for _, imported := range slices.Concat(p.Imports, p.TestImports, p.XTestImports) {
			for library, folders := range owners {
				if imported != library && !strings.HasPrefix(imported, library+"/") {
					continue
				}
				seen[library] = true
				if !slices.ContainsFunc(folders, func(folder string) bool { return strings.HasPrefix(p.ImportPath, module+"/"+folder) }) {
					t.Errorf("%s imports %s; only %s may", p.ImportPath, imported, strings.Join(folders, " and "))
				}
			}
		}
	}
	for library := range owners {
		if !seen[library] {
			t.Errorf("nothing imports %s: the rule is out of date", library)
		}
	}
}

func TestEveryPackageSaysWhatItIs(t *testing.T) {
	cmd := exec.CommandContext(t.Context(), "go", "list", "-e", "-f", `{{if and .GoFiles (not .Doc)}}{{.ImportPath}}{{end}}`, module+"/...")
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s: %v", cmd, err)
	}
	for _, path := range strings.Fields(string(out)) {
		t.Errorf("%s has no package comment; write a doc.go of three sentences", path)
	}
}
