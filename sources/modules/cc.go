package modules

import (
	"context"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
)

// cSource is a program in C: all files in Folder of the module Module whose names end in .c, compiled with Flags.
type cSource struct {
	Name, Module, Folder string
	Flags                []string
}

// cSources lists p's programs in C.
func cSources(p project) []cSource {
	var sources []cSource
	for _, prog := range p.programs {
		if prog.cflags != nil {
			folder := strings.TrimPrefix(prog.pkg, p.modules[0]+"/")
			sources = append(sources, cSource{Name: prog.name(), Module: p.modules[0], Folder: folder, Flags: prog.cflags})
		}
	}
	return sources
}

// compiler is the C compiler's command, which go takes from the environment too.
func (g *golang) compiler() []string {
	if command := strings.Fields(g.CC); len(command) > 0 {
		return command
	}
	return []string{"gcc"}
}

// compilerVersion is what the C compiler calls itself.
func (g *golang) compilerVersion(ctx context.Context) (string, error) {
	out, err := execute(ctx, "/", nil, nil, append(g.compiler(), "--version"))
	if err != nil {
		return "", fmt.Errorf("asking the C compiler for its version: %w", err)
	}
	version, _, _ := strings.Cut(string(out), "\n")
	return version, nil
}

// compileC compiles a program in C into the folder programs. The module is one that the go.mod in dir requires and that is downloaded.
// The compiler runs where the sources are, so that the program knows no path of this machine.
func (g *golang) compileC(ctx context.Context, dir string, env []string, log func(line string), source cSource, programs string) error {
	out, err := g.run(ctx, dir, env, log, "list", "-m", "-f", "{{.Dir}}", source.Module)
	if err != nil {
		return fmt.Errorf("finding the sources of %s: %w", source.Name, err)
	}
	folder := filepath.Join(strings.TrimSpace(string(out)), filepath.FromSlash(source.Folder))
	entries, err := os.ReadDir(folder)
	if err != nil {
		return fmt.Errorf("finding the sources of %s: %w", source.Name, err)
	}
	command := slices.Concat(g.compiler(), source.Flags, []string{"-o", filepath.Join(programs, source.Name)})
	files := len(command)
	for _, e := range entries {
		if path.Ext(e.Name()) == ".c" {
			command = append(command, e.Name())
		}
	}
	if len(command) == files {
		return fmt.Errorf("finding the sources of %s: no file in %s/%s ends in .c", source.Name, source.Module, source.Folder)
	}
	if _, err := execute(ctx, folder, env, log, command); err != nil {
		return fmt.Errorf("compiling %s in C: %w", source.Name, err)
	}
	return nil
}
