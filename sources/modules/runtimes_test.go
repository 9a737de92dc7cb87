package modules

import (
	"bytes"
	"debug/elf"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/nodeimg/nodeimg/recipes"
)

// TestRuntimesRun compiles the Docker Engine with what belongs to it, and CRI-O, in the user's own cache, where they are compiled once; and
// asks each program for its version; pinns, which has none, says what it misses.
func TestRuntimesRun(t *testing.T) {
	c := newCompiler(t, "")
	says := map[string][]string{
		"docker/dockerd":          {"--version", "Docker version " + recipes.DefaultDockerVersion + ","},
		"docker/docker-proxy":     {"--version", "docker-proxy (commit unknown) version " + recipes.DefaultDockerVersion},
		"docker-cli/docker":       {"--version", "Docker version " + recipes.DefaultDockerVersion + ","},
		"cri-dockerd/cri-dockerd": {"--version", "cri-dockerd " + strings.TrimPrefix(CRIDockerdVersion, "v") + " (unknown)"},
		"cri-o/crio":              {"--version", "crio version " + recipes.DefaultCRIOVersion},
		"cri-o/pinns":             {"--dir=/nonexistent", "Filename for pinning namespaces not specified"},
	}
	projects := append(dockerProjects(recipes.DefaultDockerVersion), crio(recipes.DefaultCRIOVersion))
	for _, p := range projects {
		b, err := c.build(t.Context(), p)
		if err != nil {
			t.Fatal(err)
		}
		for _, prog := range p.programs {
			name := p.name + "/" + prog.name()
			t.Run(name, func(t *testing.T) {
				path := executable(t, c.cache, b.Programs[prog.name()])
				want := says[name]
				out, err := exec.CommandContext(t.Context(), path, want[0]).CombinedOutput()
				if !strings.Contains(string(out), want[1]) {
					t.Errorf("%s %s: %v: %q does not say %q", name, want[0], err, out, want[1])
				}
				assertPortable(t, path)
			})
		}
	}
}

// assertPortable checks that a program needs no library and knows no folder of this machine.
func assertPortable(t *testing.T, path string) {
	t.Helper()
	f, err := elf.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if libraries, err := f.ImportedLibraries(); err != nil || len(libraries) != 0 {
		t.Errorf("needs libraries %v, %v", libraries, err)
	}
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	user, err := os.UserHomeDir()
	if err != nil {
		t.Fatal(err)
	}
	for _, folder := range []string{filepath.Join(user, "go", "pkg"), filepath.Join(user, ".cache")} {
		if bytes.Contains(content, []byte(folder)) {
			t.Errorf("knows the folder %s", folder)
		}
	}
}

// TestCompileC compiles the same program from two folders, to the same bytes.
func TestCompileC(t *testing.T) {
	c := newCompiler(t, t.TempDir())
	source := cSource{Name: "hello", Module: "example.com/c", Folder: "src", Flags: []string{"-O2", "-g", "-static", "-s"}}
	compile := func(files map[string]string) ([]byte, error) {
		dir := t.TempDir()
		files["go.mod"] = "module example.com/main\n\ngo 1.24\n\nrequire example.com/c v0.0.0\n\nreplace example.com/c => ./c\n"
		files["c/go.mod"] = "module example.com/c\n\ngo 1.24\n"
		for name, text := range files {
			path := filepath.Join(dir, name)
			if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		if err := c.tool.compileC(t.Context(), dir, temporaryIn(t.TempDir()), nil, source, dir); err != nil {
			return nil, err
		}
		return os.ReadFile(filepath.Join(dir, source.Name))
	}
	main := "#include <stdio.h>\n#include \"greeting.h\"\nint main(void) { puts(greeting()); return 0; }\n"
	good := map[string]string{
		"c/src/greeting.h": "const char *greeting(void);\n",
		"c/src/greeting.c": "#include \"greeting.h\"\nconst char *greeting(void) { return \"hello from \" __FILE__; }\n",
		"c/src/main.c":     main, "c/src/README": "not compiled", "c/other/broken.c": "int main(",
	}
	first, err := compile(good)
	if err != nil {
		t.Fatal(err)
	}
	if second, err := compile(good); err != nil || !bytes.Equal(first, second) {
		t.Errorf("another folder gave another program: %d and %d bytes, %v", len(first), len(second), err)
	}
	path := filepath.Join(t.TempDir(), "hello")
	if err := os.WriteFile(path, first, 0o755); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.CommandContext(t.Context(), path).Output(); err != nil || string(out) != "hello from greeting.c\n" {
		t.Errorf("it says %q, %v", out, err)
	}
	if _, err := compile(map[string]string{"c/src/main.c": main}); err == nil || !strings.Contains(err.Error(), "compiling hello in C") || !strings.Contains(err.Error(), "greeting.h") {
		t.Errorf("error %v does not say what is missing", err)
	}
	if _, err := compile(map[string]string{"c/src/README": ""}); err == nil || !strings.Contains(err.Error(), "no file in example.com/c/src ends in .c") {
		t.Errorf("error %v does not say what is missing", err)
	}
}

// TestContentOfC checks that the compiler's version, the flags and the sources' folder are in the key of a project with a program in C.
func TestContentOfC(t *testing.T) {
	c := newCompiler(t, t.TempDir())
	keys := map[string]string{}
	for name, change := range map[string]func(*project){
		"as it is": func(*project) {},
		"no C":     func(p *project) { p.programs = nil },
		"flags":    func(p *project) { p.programs[0].cflags = []string{"-O0"} },
		"folder":   func(p *project) { p.programs[0].pkg = "example.com/c/other" },
	} {
		p := project{name: "c", version: "v1.0.0", modules: []string{"example.com/c"}, programs: []program{{pkg: "example.com/c/src", own: "c", cflags: []string{"-O2"}}}}
		change(&p)
		goMod, err := c.cache.PutBytes([]byte("module example.com/c\n"))
		if err != nil {
			t.Fatal(err)
		}
		in, err := c.content(t.Context(), p, []moduleFact{{Path: "example.com/c", Version: "v1.0.0", Sum: "h1:x", GoMod: goMod}})
		if err != nil {
			t.Fatal(err)
		}
		if other, twice := keys[in.key()]; twice {
			t.Errorf("%q and %q have the same key", name, other)
		}
		keys[in.key()] = name
		if wants := name != "no C"; wants != (len(in.Versions) == 1) {
			t.Errorf("%q: versions %v", name, in.Versions)
		}
	}
}

func TestRequirements(t *testing.T) {
	dir := t.TempDir()
	goMod := filepath.Join(t.TempDir(), "go.mod")
	if err := os.WriteFile(goMod, []byte("module m\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	read := func(version string) string {
		b, err := requirements(version, goMod, dir)
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	if got := read("v2.0.0+incompatible"); got != "module m\n" {
		t.Errorf("without vendor.mod: %q", got)
	}
	if err := os.WriteFile(filepath.Join(dir, "vendor.mod"), []byte("module m\n\ngo 1.24\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if got := read("v2.0.0+incompatible"); got != "module m\n\ngo 1.24\n" {
		t.Errorf("with vendor.mod: %q", got)
	}
	if got := read("v1.0.0"); got != "module m\n" {
		t.Errorf("a module with a go.mod of its own: %q", got)
	}
}
