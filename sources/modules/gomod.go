package modules

import (
	"fmt"
	"go/version"
	"strings"

	"golang.org/x/mod/modfile"
	"golang.org/x/mod/module"
)

// stagingPrefix is where Kubernetes' go.mod points for the modules that are published from its repository.
const stagingPrefix = "./staging/src/"

// goVersionWithoutUpstream is the language version of a project that has no upstream.
const goVersionWithoutUpstream = "1.24"

// goMod writes the go.mod of the build of p: upstream's requirements, go and godebug lines, exclusions and replacements, as in upstream's own
// build, plus p's modules and pins. Replacements by directories cannot be kept: Kubernetes' staging modules become the published
// modules of the same release, all others fall back to the required versions. The toolchain line is left out, because the user's
// GOTOOLCHAIN decides. upstream is the go.mod of p.modules[0], or nil when p has none.
func goMod(p project, upstream []byte) ([]byte, error) {
	out := new(modfile.File)
	if err := out.AddModuleStmt("nodeimg.dev/" + p.name); err != nil {
		return nil, err
	}
	if len(p.modules) == 0 {
		if err := out.AddGoStmt(goVersionWithoutUpstream); err != nil {
			return nil, err
		}
		return out.Format()
	}
	in, err := modfile.Parse(p.modules[0]+"@"+p.version+"/go.mod", upstream, nil)
	if err != nil {
		return nil, fmt.Errorf("reading go.mod of %s %s: %w", p.modules[0], p.version, err)
	}
	if in.Go != nil {
		if err := out.AddGoStmt(in.Go.Version); err != nil {
			return nil, err
		}
	}
	for _, g := range in.Godebug {
		if err := out.AddGodebug(g.Key, g.Value); err != nil {
			return nil, err
		}
	}
	required := map[string]bool{}
	for _, path := range p.modules {
		required[path] = true
		out.AddNewRequire(path, p.version, false)
	}
	for _, r := range in.Require {
		if !required[r.Mod.Path] {
			out.AddNewRequire(r.Mod.Path, r.Mod.Version, r.Indirect)
		}
	}
	out.SetRequireSeparateIndirect(out.Require)
	for _, r := range in.Replace {
		replacement, keep, err := replacementFor(r.New, p.version)
		if err != nil {
			return nil, err
		}
		if !keep {
			continue
		}
		if err := out.AddReplace(r.Old.Path, r.Old.Version, replacement.Path, replacement.Version); err != nil {
			return nil, err
		}
	}
	for _, pin := range p.pins {
		if err := out.AddReplace(pin.Path, "", pin.Path, pin.Version); err != nil {
			return nil, err
		}
	}
	if p.apart {
		out.AddNewRequire(apartModule, "v0.0.0", false)
		if err := out.AddReplace(apartModule, "", "./apart", ""); err != nil {
			return nil, err
		}
	}
	for _, e := range in.Exclude {
		if err := out.AddExclude(e.Mod.Path, e.Mod.Version); err != nil {
			return nil, err
		}
	}
	out.SortBlocks()
	out.Cleanup()
	return out.Format()
}

// sourceFiles are the files that a build of p begins with, by path; mod is its go.mod.
func sourceFiles(p project, mod string) map[string]string {
	files := map[string]string{"go.mod": mod, "go.sum": ""}
	switch {
	case p.apart:
		files["apart/go.mod"] = "module " + apartModule + "\n\ngo " + goVersionWithoutUpstream + "\n"
		files["apart/"+p.name+"/main.go"] = p.main
	case p.main != "":
		files["main.go"] = p.main
	}
	return files
}

// languageFlags compiles a module without a go.mod in the language version that upstream names elsewhere. The go command would take go1.16
// (https://go.dev/ref/mod#go-mod-file-go), in which the variables of a loop outlive its iteration: the Docker Engine's list of images then
// has one image several times and others not at all.
func languageFlags(p project, upstream []byte) string {
	if !strings.HasSuffix(p.version, incompatible) {
		return ""
	}
	in, err := modfile.ParseLax(p.modules[0]+"@"+p.version, upstream, nil)
	if err != nil || in.Go == nil {
		return ""
	}
	return "-gcflags=" + p.modules[0] + "/...=-lang=" + version.Lang("go"+in.Go.Version)
}

// replacementFor says what takes the place of upstream's replacement by m, if anything does.
func replacementFor(m module.Version, version string) (replacement module.Version, keep bool, err error) {
	if m.Version != "" {
		return m, true, nil
	}
	path, staging := strings.CutPrefix(m.Path, stagingPrefix)
	if !staging {
		return module.Version{}, false, nil
	}
	published, err := stagingVersion(version)
	return module.Version{Path: path, Version: published}, true, err
}

// stagingVersion is the version under which the staging modules of Kubernetes vM.N.P are published: v0.N.P
// (https://github.com/kubernetes/kubernetes/blob/master/staging/README.md).
func stagingVersion(kubernetes string) (string, error) {
	rest, ok := strings.CutPrefix(kubernetes, "v1.")
	if !ok {
		return "", fmt.Errorf("finding the staging modules of Kubernetes %s: not a version v1.N.P", kubernetes)
	}
	return "v0." + rest, nil
}
