package modules

import (
	"bufio"
	"context"
	"debug/elf"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/moby/buildkit/client"

	"github.com/nodeimg/nodeimg/internal/cache"
	"github.com/nodeimg/nodeimg/internal/progress"
	"github.com/nodeimg/nodeimg/recipes"
)

// TestResolveToolsFail checks that a failure to make the tools layer ends the compilations.
func TestResolveToolsFail(t *testing.T) {
	root := t.TempDir()
	c, err := cache.Open(root)
	if err != nil {
		t.Fatal(err)
	}
	_, err = Resolve(t.Context(), c, Request{
		Kubernetes: "v1.34.10", Platform: "linux/" + runtime.GOARCH,
		ToolsLayer: func(context.Context) (v1.Layer, error) { return nil, errors.New("no mirror answers") },
	})
	if err == nil || !strings.Contains(err.Error(), "no mirror answers") {
		t.Errorf("error %v does not say why", err)
	}
	if left, err := os.ReadDir(filepath.Join(root, "modules")); err != nil || len(left) != 0 {
		t.Errorf("build folders left: %v, %v", left, err)
	}
}

// newCompiler compiles for this machine into a cache in root.
func newCompiler(t *testing.T, root string) *compiler {
	t.Helper()
	c, err := cache.Open(root)
	if err != nil {
		t.Fatal(err)
	}
	work, err := c.Dir("modules")
	if err != nil {
		t.Fatal(err)
	}
	tool, err := findGo(t.Context(), work)
	if err != nil {
		t.Fatal(err)
	}
	return &compiler{cache: c, tool: tool, target: platform{os: tool.HostOS, arch: tool.HostArch}, work: work}
}

// assertClean checks that no build folder and no fact about a build was left.
func assertClean(t *testing.T, root string) {
	t.Helper()
	left, err := os.ReadDir(filepath.Join(root, "modules"))
	if err != nil || len(left) != 0 {
		t.Errorf("build folders left: %v, %v", left, err)
	}
	facts, err := filepath.Glob(filepath.Join(root, "facts", "modules-build-*"))
	if err != nil || len(facts) != 0 {
		t.Errorf("facts left: %v, %v", facts, err)
	}
}

// executable copies a program out of the cache, where blobs are not executable.
func executable(t *testing.T, c *cache.Cache, f file) string {
	t.Helper()
	b, err := os.ReadFile(c.Path(f.Digest))
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "program")
	if err := os.WriteFile(path, b, 0o755); err != nil {
		t.Fatal(err)
	}
	return path
}

func projectNamed(t *testing.T, name string) project {
	t.Helper()
	projects := projectsFor(Request{Kubernetes: "v1.34.10", CRI: recipes.CRI{Name: recipes.CRIContainerd, Version: "2.4.2"}, CNI: recipes.CNIFlannel})
	i := slices.IndexFunc(projects, func(p project) bool { return p.name == name })
	if i < 0 {
		t.Fatalf("no project %s", name)
	}
	return projects[i]
}

// TestCompileThroughTheProxy compiles a small upstream project, runs it, and finds it again without go.
func TestCompileThroughTheProxy(t *testing.T) {
	root := t.TempDir()
	c := newCompiler(t, root)
	p := projectNamed(t, "flannel-cni")
	first, err := c.build(t.Context(), p)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), executable(t, c.cache, first.Programs["flannel"]))
	cmd.Stdin = nil
	out, _ := cmd.CombinedOutput()
	if !strings.Contains(string(out), FlannelPluginVersion) {
		t.Errorf("the plugin says %q, want its version %s", out, FlannelPluginVersion)
	}
	if len(first.Modules) != 1 || !strings.HasPrefix(first.Modules[0].Sum, "h1:") {
		t.Errorf("modules %v have no sum", first.Modules)
	}
	sums, err := os.ReadFile(c.cache.Path(first.GoSum))
	if err != nil || !strings.Contains(string(sums), "github.com/containernetworking/plugins v0.9.1 "+first.Modules[0].Sum) {
		t.Errorf("go.sum %v does not hold the module's sum:\n%s", err, sums)
	}
	left, err := os.ReadDir(filepath.Join(root, "modules"))
	if err != nil || len(left) != 0 {
		t.Errorf("build folders left: %v, %v", left, err)
	}

	c.tool.path = filepath.Join(root, "no-go-here")
	again, err := c.build(t.Context(), p)
	if err != nil {
		t.Fatalf("building again: %v", err)
	}
	if again.Programs["flannel"] != first.Programs["flannel"] || again.GoSum != first.GoSum {
		t.Errorf("building again gave %v, first %v", again, first)
	}

	// A blob that was lost is compiled again, and is the same, in another cache too.
	if err := os.Remove(c.cache.Path(first.Programs["flannel"].Digest)); err != nil {
		t.Fatal(err)
	}
	if _, err := c.build(t.Context(), p); err == nil {
		t.Error("building without blob and without go succeeded")
	}
	other, err := newCompiler(t, t.TempDir()).build(t.Context(), p)
	if err != nil {
		t.Fatal(err)
	}
	if other.Programs["flannel"] != first.Programs["flannel"] {
		t.Errorf("another cache gave %v, first %v", other.Programs["flannel"], first.Programs["flannel"])
	}
}

func TestPause(t *testing.T) {
	c := newCompiler(t, t.TempDir())
	b, err := c.build(t.Context(), projectNamed(t, "pause"))
	if err != nil {
		t.Fatal(err)
	}
	path := executable(t, c.cache, b.Programs["pause"])
	if out, err := exec.CommandContext(t.Context(), path, "-v").Output(); err != nil || strings.TrimSpace(string(out)) != "pause "+PauseVersion {
		t.Errorf("pause -v: %q, %v", out, err)
	}
	t.Run("static", func(t *testing.T) {
		f, err := elf.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		if libraries, err := f.ImportedLibraries(); err != nil || len(libraries) != 0 {
			t.Errorf("needs libraries %v, %v", libraries, err)
		}
	})
	for _, signal := range []syscall.Signal{syscall.SIGINT, syscall.SIGTERM} {
		t.Run("reaps orphans and ends on "+signal.String(), func(t *testing.T) {
			// The shell starts a child and becomes pause, so that pause is the parent of a process that it does not know. That
			// the child is reaped also tells that pause listens to signals.
			cmd := exec.CommandContext(t.Context(), "/bin/sh", "-c", "sleep 0.2 & echo $!; exec \"$0\"", path)
			stdout, err := cmd.StdoutPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			line, err := bufio.NewReader(stdout).ReadString('\n')
			if err != nil {
				t.Fatal(err)
			}
			until(t, "pause to reap its child", func() bool {
				_, err := os.Stat("/proc/" + strings.TrimSpace(line))
				return errors.Is(err, os.ErrNotExist)
			})
			if err := cmd.Process.Signal(signal); err != nil {
				t.Fatal(err)
			}
			if err := cmd.Wait(); err != nil {
				t.Errorf("pause ended with %v", err)
			}
		})
	}
}

func TestCrossCompile(t *testing.T) {
	c := newCompiler(t, t.TempDir())
	want := elf.EM_AARCH64
	c.target.arch = "arm64"
	if runtime.GOARCH == "arm64" {
		c.target.arch, want = "amd64", elf.EM_X86_64
	}
	b, err := c.build(t.Context(), projectNamed(t, "pause"))
	if err != nil {
		t.Fatal(err)
	}
	f, err := elf.Open(c.cache.Path(b.Programs["pause"].Digest))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if f.Machine != want {
		t.Errorf("compiled for %v, want %v", f.Machine, want)
	}
}

func TestBuildFailures(t *testing.T) {
	for _, test := range []struct {
		name string
		p    project
		want []string
	}{
		{
			name: "does not compile",
			p:    project{name: "broken", version: "v1.0.0", main: "package main\n\nfunc main() { undefinedThing() }\n", programs: []program{{pkg: ".", own: "broken"}}},
			want: []string{"compiling broken v1.0.0", "undefined: undefinedThing"},
		},
		{
			name: "unknown version",
			p:    project{name: "kubernetes", version: "v1.34.9999", modules: []string{"k8s.io/kubernetes"}, programs: []program{{pkg: "k8s.io/kubernetes/cmd/kubeadm"}}},
			want: []string{"compiling kubernetes v1.34.9999", "k8s.io/kubernetes@v1.34.9999", "released version"},
		},
		{
			name: "unknown version of a recipe's",
			p:    crio("1.36.9999"),
			want: []string{"compiling cri-o v1.36.9999", "github.com/cri-o/cri-o@v1.36.9999", "spec.cri.version", "kubernetes.source release"},
		},
		{
			name: "module not required",
			p:    project{name: "unpinned", version: "v1.0.0", main: "package main\n\nimport _ \"rsc.io/quote\"\n\nfunc main() {}\n", programs: []program{{pkg: ".", own: "unpinned"}}},
			want: []string{"no required module", "rsc.io/quote"},
		},
		{
			name: "missing C library",
			p: project{
				name: "c", version: "v1.0.0", main: "package main\n\nfunc main() {}\n", programs: []program{{pkg: ".", own: "c"}},
				cgo: func(string) bool { return true }, libraries: []library{{name: "libnodeimgmissing", pkg: "libnodeimgmissing-dev"}},
			},
			want: []string{"libnodeimgmissing", "apt-get install pkg-config libnodeimgmissing-dev"},
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			root := t.TempDir()
			_, err := newCompiler(t, root).build(t.Context(), test.p)
			if err == nil {
				t.Fatal("no error")
			}
			for _, want := range test.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("error %q does not say %q", err, want)
				}
			}
			assertClean(t, root)
		})
	}
}

// TestTwoAtOnce lets two callers, each with its own open cache, want the same program: one compiles, the other one waits for it. What a
// killed process left in the build folder is in nobody's way.
func TestTwoAtOnce(t *testing.T) {
	root := t.TempDir()
	p := projectNamed(t, "pause")
	left := filepath.Join(root, "modules", "compile-pause-"+runtime.GOOS+"-"+runtime.GOARCH, "source")
	if err := os.MkdirAll(left, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(left, "half.go"), []byte("package ma"), 0o644); err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	compiled := 0
	ctx := progress.WithSink(t.Context(), func(s *client.SolveStatus) {
		mu.Lock()
		defer mu.Unlock()
		for _, v := range s.Vertexes {
			if v.Completed != nil && !v.Cached {
				compiled++
			}
		}
	})
	var group sync.WaitGroup
	builds := make([]*build, 2)
	failures := make([]error, 2)
	for i := range builds {
		c := newCompiler(t, root)
		group.Go(func() { builds[i], failures[i] = c.build(ctx, p) })
	}
	group.Wait()
	if err := errors.Join(failures...); err != nil {
		t.Fatal(err)
	}
	if builds[0].Programs["pause"] != builds[1].Programs["pause"] {
		t.Errorf("two results: %v", builds)
	}
	if compiled != 1 {
		t.Errorf("compiled %d times", compiled)
	}
	if _, err := os.Stat(filepath.Dir(left)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the build folder is left: %v", err)
	}
}

func TestResolveRefuses(t *testing.T) {
	foreign := "linux/arm64"
	if runtime.GOARCH == "arm64" {
		foreign = "linux/amd64"
	}
	tools := func(context.Context) (v1.Layer, error) { return nil, errors.New("not needed") }
	for _, test := range []struct {
		name string
		req  Request
		want string
	}{
		{"foreign architecture", Request{Kubernetes: "v1.34.10", CRI: recipes.CRI{Name: recipes.CRIContainerd, Version: "2.4.2"}, Platform: foreign, ToolsLayer: tools}, "compiling runc for " + foreign},
		{"other system", Request{Kubernetes: "v1.34.10", Platform: "windows/amd64", ToolsLayer: tools}, `"windows/amd64"`},
		{"no architecture", Request{Kubernetes: "v1.34.10", Platform: "linux", ToolsLayer: tools}, `"linux"`},
		{"half a version", Request{Kubernetes: "v1.34", Platform: "linux/amd64", ToolsLayer: tools}, `"v1.34"`},
		{"a branch", Request{Kubernetes: "latest", Platform: "linux/amd64", ToolsLayer: tools}, `"latest"`},
		{"another pod network", Request{Kubernetes: "v1.34.10", Platform: "linux/amd64", CNI: recipes.CNICalico, ToolsLayer: tools}, `"calico"`},
		{"no tools", Request{Kubernetes: "v1.34.10", Platform: "linux/amd64"}, "tools layer"},
	} {
		t.Run(test.name, func(t *testing.T) {
			root := t.TempDir()
			c, err := cache.Open(root)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := Resolve(t.Context(), c, test.req); err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("error %v does not say %s", err, test.want)
			}
		})
	}
}
