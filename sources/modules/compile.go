package modules

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"

	"github.com/nodeimg/nodeimg/internal/cache"
	"github.com/nodeimg/nodeimg/internal/progress"
)

// compiler turns projects into programs in the cache.
type compiler struct {
	cache  *cache.Cache
	tool   *golang
	target platform
	// work is the folder for everything unfinished.
	work string
}

// build is what compiling a project gave, stored as a fact under the content key.
type build struct {
	Programs map[string]file `json:"programs"`
	Modules  []moduleFact    `json:"modules,omitempty"`
	// GoSum is the digest of the build's go.sum, a blob in the cache; it names every module that was compiled, by hash.
	GoSum digest.Digest `json:"goSum"`
}

// file is a blob.
type file struct {
	Digest digest.Digest `json:"digest"`
	Size   int64         `json:"size"`
}

// content is everything that determines a build's result; its digest is the content key. The go.sum is not in it because it follows
// from the go.mod and the checksum database.
type content struct {
	Format   int
	Go       []string
	Env      []string
	Args     []string
	Modules  []string
	GoMod    string
	Main     string
	CC       []string   `json:",omitempty"`
	CSources []cSource  `json:",omitempty"`
	Versions [][]string `json:",omitempty"`
}

// contentFormat changes when this package compiles differently from the same content.
const contentFormat = 1

// possible reports why p cannot be compiled on this machine for the target, before anything is.
func (c *compiler) possible(p project) error {
	if !p.needsC(c.target.arch) {
		return nil
	}
	if c.target.os != c.tool.HostOS || c.target.arch != c.tool.HostArch {
		return fmt.Errorf("compiling %s for %s: it is partly written in C, which cannot be compiled on %s/%s; build on a %[2]s machine or use kubernetes.source release",
			p.name, c.target, c.tool.HostOS, c.tool.HostArch)
	}
	return nil
}

func (p project) needsC(arch string) bool { return p.cgo != nil && p.cgo(arch) }

// build returns p's programs, compiling them unless the cache has them.
func (c *compiler) build(ctx context.Context, p project) (_ *build, err error) {
	step := progress.Start(ctx, "[compile] %s %s", p.name, p.version)
	defer func() { err = step.Done(err) }()
	b, cached, err := c.cachedBuild(ctx, p, step)
	if err != nil {
		return nil, fmt.Errorf("compiling %s %s: %w", p.name, p.version, err)
	}
	if cached {
		step.Cached()
	}
	return b, nil
}

func (c *compiler) cachedBuild(ctx context.Context, p project, step *progress.Step) (b *build, cached bool, err error) {
	// While one process compiles a project, another one that wants it waits; and the folder below belongs to the lock's holder, so
	// that what a killed process left there is removed.
	name := fmt.Sprintf("compile-%s-%s", p.name, strings.ReplaceAll(c.target.String(), "/", "-"))
	scratch := filepath.Join(c.work, name)
	var modules []moduleFact
	known := true
	for _, path := range p.modules {
		m, ok, err := c.moduleFact(path, p.version)
		if err != nil {
			return nil, false, err
		}
		known = known && ok
		modules = append(modules, m)
	}
	if known {
		in, err := c.content(ctx, p, modules)
		if err != nil {
			return nil, false, err
		}
		if b, ok, err := c.buildFact(in); err != nil || ok {
			return b, ok, err
		}
	}

	unlock, err := c.cache.Lock(ctx, "modules-"+name)
	if err != nil {
		return nil, false, err
	}
	defer unlock()
	if err := os.RemoveAll(scratch); err != nil {
		return nil, false, fmt.Errorf("clearing the build folder: %w", err)
	}
	if err := os.MkdirAll(scratch, 0o755); err != nil {
		return nil, false, fmt.Errorf("creating the build folder: %w", err)
	}
	defer func() {
		if removeErr := os.RemoveAll(scratch); err == nil && removeErr != nil {
			err = fmt.Errorf("removing the build folder: %w", removeErr)
		}
	}()
	for i, path := range p.modules {
		if modules[i], err = c.download(ctx, scratch, path, p.version, p.field, step); err != nil {
			return nil, false, err
		}
	}
	in, err := c.content(ctx, p, modules)
	if err != nil {
		return nil, false, err
	}
	if b, ok, err := c.buildFact(in); err != nil || ok {
		return b, ok, err
	}
	if b, err = c.compile(ctx, p, in, modules, scratch, step); err != nil {
		return nil, false, err
	}
	return b, false, c.cache.PutFact(in.key(), b)
}

// content collects what determines the build of p from modules.
func (c *compiler) content(ctx context.Context, p project, modules []moduleFact) (*content, error) {
	cgo := p.needsC(c.target.arch)
	in := &content{
		Format: contentFormat, Main: p.main,
		Go:  []string{c.tool.Version, c.tool.Experiment, c.tool.FIPS140},
		Env: append(c.target.environment(), "CGO_ENABLED=0"),
		// The build must not depend on whether the cache lies in somebody's git checkout.
		Args: []string{"build", "-trimpath", "-buildvcs=false", "-tags", strings.Join(p.tags, ",")},
	}
	var first moduleFact
	var upstream []byte
	for i, m := range modules {
		in.Modules = append(in.Modules, m.Path+"@"+m.Version+" "+m.Sum)
		if i > 0 {
			continue
		}
		first = m
		var err error
		if upstream, err = os.ReadFile(c.cache.Path(m.GoMod)); err != nil {
			return nil, fmt.Errorf("reading go.mod of %s: %w", m.Path, err)
		}
	}
	mod, err := goMod(p, upstream)
	if err != nil {
		return nil, err
	}
	in.GoMod = string(mod)
	if flags := languageFlags(p, upstream); flags != "" {
		in.Args = append(in.Args, flags)
	}
	in.Args = append(in.Args, "-ldflags", ldflags(p, first, cgo))
	if cgo {
		in.Env[len(in.Env)-1] = "CGO_ENABLED=1"
		in.CC = []string{c.tool.CC, c.tool.CFlags, c.tool.LDFlags}
		if in.Versions, err = c.libraryVersions(ctx, p); err != nil {
			return nil, err
		}
	}
	if in.CSources = cSources(p); in.CSources != nil {
		version, err := c.tool.compilerVersion(ctx)
		if err != nil {
			return nil, err
		}
		in.Versions = append(in.Versions, []string{"cc", version})
	}
	return in, nil
}

// libraryVersions finds the C libraries that p is linked with and the C compiler.
func (c *compiler) libraryVersions(ctx context.Context, p project) ([][]string, error) {
	if _, err := exec.LookPath(c.tool.compiler()[0]); err != nil {
		return nil, fmt.Errorf("looking for the C compiler: %w; install it (Debian, Ubuntu: apt-get install gcc libc6-dev)", err)
	}
	var versions [][]string
	for _, l := range p.libraries {
		out, err := exec.CommandContext(ctx, "pkg-config", "--modversion", l.name).CombinedOutput()
		if err != nil {
			if ctx.Err() != nil {
				return nil, context.Cause(ctx)
			}
			return nil, fmt.Errorf("looking for the C library %s with pkg-config: %w; install it with its headers (Debian, Ubuntu: apt-get install pkg-config %s)", l.name, err, l.pkg)
		}
		versions = append(versions, []string{l.name, strings.TrimSpace(string(out))})
	}
	return versions, nil
}

// key is the name of the build's fact.
func (in *content) key() string {
	b, err := json.Marshal(in)
	if err != nil {
		panic(err) // a struct of strings always has a JSON form
	}
	return "modules-build-" + digest.FromBytes(b).Encoded()
}

// buildFact finds an earlier build whose files are all still in the cache.
func (c *compiler) buildFact(in *content) (*build, bool, error) {
	b := &build{}
	ok, err := c.cache.Fact(in.key(), b)
	if err != nil || !ok {
		return nil, false, err
	}
	for _, f := range b.Programs {
		if size, err := c.cache.Size(f.Digest); err != nil || size != f.Size {
			return nil, false, nil
		}
	}
	if !c.cache.Has(b.GoSum) {
		return nil, false, nil
	}
	return b, true, nil
}

// temporaryIn makes go, and the C compiler below it, put temporary files into dir, which is cleared also after a process that was killed.
func temporaryIn(dir string) []string { return []string{"GOTMPDIR=" + dir, "TMPDIR=" + dir} }

// compile runs "go build" in scratch and stores what it made.
func (c *compiler) compile(ctx context.Context, p project, in *content, modules []moduleFact, scratch string, step *progress.Step) (*build, error) {
	source := filepath.Join(scratch, "source")
	programs := filepath.Join(scratch, "programs")
	temporary := filepath.Join(scratch, "tmp")
	for _, dir := range []string{source, programs, temporary} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return nil, fmt.Errorf("creating the build folder: %w", err)
		}
	}
	for name, text := range sourceFiles(p, in.GoMod) {
		if err := os.MkdirAll(filepath.Dir(filepath.Join(source, name)), 0o755); err != nil {
			return nil, fmt.Errorf("creating the build folder: %w", err)
		}
		if err := os.WriteFile(filepath.Join(source, name), []byte(text), 0o644); err != nil {
			return nil, fmt.Errorf("writing the build's %s: %w", name, err)
		}
	}
	args := append(slices.Clone(in.Args), "-o", programs+string(filepath.Separator))
	for _, prog := range p.programs {
		if prog.cflags == nil {
			args = append(args, prog.pkg)
		}
	}
	var unpinned []string
	log := func(line string) {
		step.Log("%s", line)
		if pkg, ok := strings.CutPrefix(line, "go: finding module for package "); ok {
			unpinned = append(unpinned, pkg)
		}
	}
	env := slices.Concat(in.Env, temporaryIn(temporary))
	_, err := c.tool.run(ctx, source, env, log, args...)
	if len(unpinned) > 0 && ctx.Err() == nil {
		// go then looks for the newest version there is, which may be another one tomorrow.
		return nil, fmt.Errorf("finding modules: no required module has the packages %s", strings.Join(unpinned, ", "))
	}
	if err != nil {
		return nil, err
	}
	for _, inC := range in.CSources {
		if err := c.tool.compileC(ctx, source, env, log, inC, programs); err != nil {
			return nil, err
		}
	}

	b := &build{Programs: map[string]file{}, Modules: modules}
	for _, prog := range p.programs {
		f, err := c.store(filepath.Join(programs, prog.name()))
		if err != nil {
			return nil, err
		}
		b.Programs[prog.name()] = f
	}
	sum, err := os.ReadFile(filepath.Join(source, "go.sum"))
	if err != nil {
		return nil, fmt.Errorf("reading the build's go.sum: %w", err)
	}
	if len(modules) > 0 && len(sum) == 0 {
		return nil, errors.New("reading the build's go.sum: it is empty, so the checksum database was not asked")
	}
	b.GoSum, err = c.cache.PutBytes(sum)
	return b, err
}

// store puts the file at path into the cache.
func (c *compiler) store(path string) (file, error) {
	f, err := os.Open(path)
	if err != nil {
		return file{}, fmt.Errorf("storing a compiled program: %w", err)
	}
	defer f.Close()
	d, size, err := c.cache.Put(f, "")
	if err != nil {
		return file{}, fmt.Errorf("storing a compiled program: %w", err)
	}
	return file{Digest: d, Size: size}, nil
}
