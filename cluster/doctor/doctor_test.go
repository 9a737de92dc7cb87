package doctor

import (
	"context"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// run makes all checks of this machine and returns them by name.
func run(t *testing.T, limit time.Duration) map[string]Check {
	t.Helper()
	checks, err := Run(t.Context(), limit)
	if err != nil {
		t.Fatal(err)
	}
	if len(checks) != len(probes) {
		t.Fatalf("got %d checks, want %d", len(checks), len(probes))
	}
	byName := map[string]Check{}
	for _, c := range checks {
		byName[c.Name] = c
	}
	return byName
}

// want fails unless the check is in the state, with words in what was found and a remedy that is not missing.
func want(t *testing.T, c Check, state State, words string) {
	t.Helper()
	if c.State != state || !strings.Contains(c.Found, words) || (c.Remedy == "") != (state == OK) {
		t.Errorf("got %+v, want state %s, %q in what was found, and a remedy unless it is ok", c, state, words)
	}
}

// closedEngine names an Engine that is not there.
func closedEngine(t *testing.T) {
	t.Helper()
	t.Setenv("DOCKER_HOST", "unix://"+filepath.Join(t.TempDir(), "no.sock"))
}

func TestEveryCheckOfThisMachineSaysWhatItFound(t *testing.T) {
	for name, c := range run(t, 0) {
		if !slices.Contains([]State{OK, Warning, Failed, Unknown}, c.State) {
			t.Errorf("%s: state %q", name, c.State)
		}
		want(t, c, c.State, "")
		if c.Found == "" || strings.Contains(c.Found+c.Remedy, "\n") {
			t.Errorf("%s: found %q, remedy %q; want one line of each at least", name, c.Found, c.Remedy)
		}
	}
}

// TestThisMachine holds what is true of every machine that the tests run on, because other tests need it.
func TestThisMachine(t *testing.T) {
	checks := run(t, 0)
	for _, name := range []string{"kernel", "user namespaces", "overlayfs", "ID-mapped overlayfs", "connection tracking", "runc", "apt", "mmdebstrap", "Go", "C compiler"} {
		want(t, checks[name], OK, "")
	}
	want(t, checks["runc"], OK, "runc version ")
	want(t, checks["Go"], OK, "go version go1.")
}

func TestEngineThatIsNotThere(t *testing.T) {
	closedEngine(t)
	checks := run(t, 0)
	want(t, checks["Docker Engine"], Failed, "no.sock")
	for _, name := range []string{"image store", "Sysbox", "disk of the Docker Engine"} {
		want(t, checks[name], Unknown, "does not answer")
	}
}

// TestServersThatNeverAnswer holds that nothing hangs.
func TestServersThatNeverAnswer(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "mute.sock")
	listener, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	t.Setenv("DOCKER_HOST", "unix://"+socket)
	t.Setenv("BUILDKIT_HOST", "unix://"+socket)
	programs := t.TempDir()
	for _, name := range []string{"runc", "go"} {
		if err := os.WriteFile(filepath.Join(programs, name), []byte("#!/bin/sh\nsleep 3600 & wait\n"), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv("PATH", programs+":"+os.Getenv("PATH"))

	start := time.Now()
	checks := run(t, 2*time.Second)
	if took := time.Since(start); took > 30*time.Second {
		t.Errorf("it took %s", took)
	}
	want(t, checks["Docker Engine"], Failed, "no answer within 2s")
	for _, name := range []string{"BuildKit", "runc", "Go"} {
		if c := checks[name]; c.State == OK || !strings.Contains(c.Found, "no answer within 2s") {
			t.Errorf("got %+v, want that there was no answer", c)
		}
	}
	want(t, checks["overlayfs"], OK, "")
}

func TestProgramsThatAreNotThere(t *testing.T) {
	closedEngine(t)
	t.Setenv("BUILDKIT_HOST", "")
	t.Setenv("PATH", t.TempDir())
	checks := run(t, 0)
	for name, state := range map[string]State{
		"runc": Failed, "apt": Failed, "mmdebstrap": Warning, "Go": Warning, "C compiler": Warning,
	} {
		want(t, checks[name], state, "not in PATH")
	}
	want(t, checks["BuildKit"], Failed, "nor in PATH")
	want(t, checks["apt"], Failed, "apt-config, dpkg-deb, apt-get")

	// A program that cannot say its version does not work.
	t.Setenv("PATH", programIn(t, "go", "#!/bin/sh\necho broken >&2\nexit 3\n"))
	want(t, run(t, 0)["Go"], Warning, "broken")
}

func programIn(t *testing.T, name, script string) (folder string) {
	t.Helper()
	folder = t.TempDir()
	if err := os.WriteFile(filepath.Join(folder, name), []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	return folder
}

func TestBuilderThatIsNotThere(t *testing.T) {
	closedEngine(t)
	t.Setenv("BUILDKIT_HOST", "unix://"+filepath.Join(t.TempDir(), "no.sock"))
	want(t, run(t, 0)["BuildKit"], Failed, "no.sock")
	t.Setenv("BUILDKIT_HOST", "gopher://somewhere")
	want(t, run(t, 0)["BuildKit"], Failed, "gopher")
}

// TestCacheIsNotMade holds that looking makes nothing, and that a cache that cannot be is a failure.
func TestCacheIsNotMade(t *testing.T) {
	closedEngine(t)
	dir := filepath.Join(t.TempDir(), "not", "yet")
	t.Setenv("NODEIMG_CACHE", dir)
	checks := run(t, 0)
	if c := checks["disk of the cache"]; !strings.Contains(c.Found, dir) {
		t.Errorf("got %+v, want %s in it", c, dir)
	}
	want(t, checks["overlayfs"], OK, filepath.Dir(filepath.Dir(dir)))
	if _, err := os.Stat(filepath.Dir(dir)); !os.IsNotExist(err) {
		t.Errorf("the cache was made: %v", err)
	}

	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("NODEIMG_CACHE", filepath.Join(file, "cache"))
	want(t, run(t, 0)["disk of the cache"], Failed, "not a directory")
}

func TestRunEndsWithItsContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Run(ctx, 0); err == nil {
		t.Error("want the reason why the context ended, got none")
	}
}

// TestNothingIsLeft compares mounts, processes and temporary files before and after.
func TestNothingIsLeft(t *testing.T) {
	t.Setenv("TMPDIR", t.TempDir())
	config := t.TempDir()
	t.Setenv("XDG_CONFIG_HOME", config)
	t.Setenv("HOME", config)
	mountsBefore, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	cacheBefore := entries(t, config)
	run(t, 0)
	mountsAfter, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	// Other tests of this machine may mount at the same time; nothing of doctor's may be there.
	for line := range strings.Lines(string(mountsAfter)) {
		if !strings.Contains(string(mountsBefore), line) && strings.Contains(line, " "+scratch) {
			t.Errorf("a mount was left: %s", line)
		}
	}
	if left := entries(t, os.TempDir()); len(left) > 0 {
		t.Errorf("left in the folder for temporary files: %v", left)
	}
	if left := entries(t, config); !slices.Equal(left, cacheBefore) {
		t.Errorf("left in the user's folder: %v", left)
	}
	threads, err := filepath.Glob("/proc/self/task/*/children")
	if err != nil || len(threads) == 0 {
		t.Fatalf("found no threads of this process: %v", err)
	}
	for _, path := range threads {
		// A thread may have ended meanwhile.
		if children, _ := os.ReadFile(path); len(children) > 0 {
			t.Errorf("processes were left: %s", children)
		}
	}
}

func entries(t *testing.T, dir string) (names []string) {
	t.Helper()
	list, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range list {
		names = append(names, e.Name())
	}
	return names
}
