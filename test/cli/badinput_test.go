package cli

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/nodeimg/nodeimg/recipes"
)

// Bad input is found before anything is started or fetched.
func TestBadInput(t *testing.T) {
	w := newWorkplace(t)
	w.standard()
	w.write("foreign/letter.txt", "do not replace")
	w.write("many.yaml", "a: b\n---\n[")
	for _, test := range []struct {
		name  string
		args  []string
		words []string
	}{
		{"no recipe", []string{"build", "none.yaml"}, []string{"none.yaml", "no such file"}},
		{"a folder as recipe", []string{"build", "foreign"}, []string{"foreign", "is a directory"}},
		{"broken YAML", []string{"build", "many.yaml"}, []string{"many.yaml:"}},
		{"push without a name", []string{"build", "recipe.yaml", "--push"}, []string{"--push", "-t"}},
		{"push to no name", []string{"build", "recipe.yaml", "--push", "-t", "Not A Name"}, []string{"Not A Name"}},
		{"unknown output", []string{"build", "recipe.yaml", "-o", "type=floppy,dest=a"}, []string{"floppy", "oci, oci-archive, docker"}},
		{"a foreign folder as output", []string{"build", "recipe.yaml", "-o", "type=oci,dest=foreign"}, []string{"foreign", "letter.txt"}},
		{"a folder as archive", []string{"build", "recipe.yaml", "-o", "type=oci-archive,dest=foreign"}, []string{"foreign", "regular file"}},
		{"a folder as build context", []string{"dockerfile", "recipe.yaml", "-o", "foreign"}, []string{"foreign", "not empty"}},
		{"unknown progress", []string{"build", "recipe.yaml", "--progress", "loud"}, []string{"loud"}},
		{"unknown flag", []string{"build", "recipe.yaml", "--fast"}, []string{"--fast"}},
		{"a builder that is none", []string{"build", "recipe.yaml", "--builder", "nowhere"}, []string{"nowhere"}},
		{"inspect of nothing", []string{"inspect", "foreign"}, []string{"foreign"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			w := &workplace{t: t, dir: w.dir}
			failed := w.run(test.args...).failed(2, test.words...)
			if strings.Contains(failed.stderr, "[resolve]") {
				t.Errorf("it was found only after other work:\n%s", failed.stderr)
			}
		})
	}
	if got := w.entries("."); !slices.Equal(got, []string{"foreign", "many.yaml", "recipe.yaml"}) {
		t.Errorf("bad input left %q", got)
	}
	if got := w.entries("foreign"); !slices.Equal(got, []string{"letter.txt"}) {
		t.Errorf("bad input left %q in a foreign folder", got)
	}
}

func TestMissingSources(t *testing.T) {
	for name, source := range map[string]recipes.ImageSource{"archive": {Archive: "none.tar"}, "layout": {Layout: "none"}} {
		t.Run(name, func(t *testing.T) {
			w := newWorkplace(t)
			w.recipe(func(spec *recipes.Spec) { spec.Preload.Images = []recipes.ImageSource{source} })
			w.run("build", "recipe.yaml").failed(2, "recipe.yaml:", "spec.preload.images[0]", "none")
		})
	}
	t.Run("no archive", func(t *testing.T) {
		w := newWorkplace(t)
		w.write("text.tar", "this is no archive")
		w.recipe(func(spec *recipes.Spec) { spec.Preload.Images = []recipes.ImageSource{{Archive: "text.tar"}} })
		w.run("build", "recipe.yaml").failed(2, "recipe.yaml:", "spec.preload.images[0]", "text.tar")
	})
}

func TestMissingPrograms(t *testing.T) {
	w := newWorkplace(t)
	w.standard()
	empty := t.TempDir()
	t.Run("runc", func(t *testing.T) {
		w := &workplace{t: t, dir: w.dir, env: []string{"PATH=" + empty}}
		w.run("build", "recipe.yaml").failed(1, "runc", "not in PATH", "--worker-runtime")
	})
	t.Run("buildkitd", func(t *testing.T) {
		alone := filepath.Join(t.TempDir(), "nodeimg")
		if err := copyProgram(program, alone); err != nil {
			t.Fatal(err)
		}
		w := &workplace{t: t, dir: w.dir}
		cmd := exec.CommandContext(t.Context(), alone, "build", "recipe.yaml")
		cmd.Dir, cmd.Env = w.dir, w.environment()
		w.finish(cmd).failed(1, "buildkitd", "make build", "--builder")
	})
	t.Run("root", func(t *testing.T) {
		home := t.TempDir()
		for dir := home; dir != os.TempDir() && dir != "/"; dir = filepath.Dir(dir) {
			if err := os.Chmod(dir, 0o755); err != nil {
				t.Fatal(err)
			}
		}
		if err := os.Chown(home, 65534, 65534); err != nil {
			t.Fatal(err)
		}
		recipe, err := os.ReadFile(w.path("recipe.yaml"))
		if err != nil {
			t.Fatal(err)
		}
		w := &workplace{t: t, dir: home, env: []string{"HOME=" + home, "XDG_CACHE_HOME="}}
		w.write("recipe.yaml", string(recipe))
		cmd := w.command(t.Context(), "build", "recipe.yaml")
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
		w.finish(cmd).failed(1, "root", "--builder")
	})
	if _, err := os.Lstat(w.path("out")); err == nil {
		t.Error("something was built")
	}
}

// TestFullDisk writes outputs to a disk that is smaller than they are.
func TestFullDisk(t *testing.T) {
	w := newWorkplace(t)
	w.standard()
	if err := os.Mkdir(w.path("small"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("small", w.path("small"), "tmpfs", 0, "size=20m"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(w.path("small"), 0); err != nil {
			t.Error(err)
		}
	})
	for _, output := range []string{"type=oci,dest=small/node", "type=oci-archive,dest=small/node.tar", "type=docker,dest=small/node.tar"} {
		t.Run(output, func(t *testing.T) {
			w := &workplace{t: t, dir: w.dir}
			w.run("build", "recipe.yaml", "-t", "small:1", "-o", output).failed(1, "no space left on device", "small/node")
			if got := w.entries("small"); len(got) > 0 {
				t.Errorf("it left %q", got)
			}
		})
	}
	if out := w.build("-o", "type=oci,dest=large"); !strings.HasPrefix(out.stdout, "large@sha256:") {
		t.Errorf("afterwards a build printed %q", out.stdout)
	}
}
