package child

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/moby/buildkit/client"
	"github.com/opencontainers/go-digest"

	"github.com/nodeimg/nodeimg/builder"
	"github.com/nodeimg/nodeimg/builder/internal/buildtest"
	"github.com/nodeimg/nodeimg/dockerfiles"
	"github.com/nodeimg/nodeimg/internal/cache"
	"github.com/nodeimg/nodeimg/internal/progress"
	"github.com/nodeimg/nodeimg/recipes"
)

// The variables by which a test starts its own binary as another nodeimg.
const (
	roleVariable      = "NODEIMG_TEST_ROLE"
	buildkitdVariable = "NODEIMG_TEST_BUILDKITD"
	digestVariable    = "NODEIMG_TEST_BASE"
	// sysboxVariable is the place with a Sysbox.
	sysboxVariable = "NODEIMG_TEST_SYSBOX"
)

func TestMain(m *testing.M) {
	Init()
	switch os.Getenv(roleVariable) {
	case "":
		os.Exit(m.Run())
	case "sleep":
		exit(playSleep())
	case "full":
		exit(playFull())
	case "unprivileged":
		_, err := New(Options{})
		exit(err)
	}
}

func exit(err error) {
	if err != nil {
		_, _ = os.Stdout.WriteString(err.Error())
		os.Exit(1)
	}
	os.Exit(0)
}

// play returns a command that plays the role with the cache c, and its output.
func play(t *testing.T, role string, c *cache.Cache) (*exec.Cmd, *bytes.Buffer) {
	t.Helper()
	cmd := exec.Command("/proc/self/exe")
	cmd.Args = []string{"nodeimg-test-" + role}
	cmd.Env = append(os.Environ(), roleVariable+"="+role)
	if c != nil {
		cmd.Env = append(cmd.Env, cache.EnvironmentVariable+"="+c.Root(), buildkitdVariable+"="+buildtest.Buildkitd(t),
			digestVariable+"="+buildtest.Base(t, c).String())
	}
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	return cmd, &out
}

// solveAs builds one step from a playing process.
func solveAs(output, step string) error {
	c, err := cache.Open("")
	if err != nil {
		return err
	}
	r := request(c, os.Getenv(digestVariable), output, step)
	if place := os.Getenv(sysboxVariable); place != "" {
		sysboxDaemons = daemonsIn(place)
		r.Dockerfile = bytes.ReplaceAll(r.Dockerfile, []byte("RUN"), []byte("ARG "+dockerfiles.InnerVariable+"=1\nRUN"))
	}
	d, err := New(Options{Cache: c, Buildkitd: os.Getenv(buildkitdVariable)})
	if err != nil {
		return err
	}
	_, err = builder.Solve(context.Background(), d, r)
	return errors.Join(err, d.Close())
}

func playSleep() error {
	output, err := os.MkdirTemp(os.Getenv(cache.EnvironmentVariable), "output")
	if err != nil {
		return err
	}
	return solveAs(output, "sleep "+wordFor(os.Getenv(cache.EnvironmentVariable)))
}

// wordFor returns an argument by which a step's process is known.
func wordFor(root string) string { return strings.ReplaceAll(root, "/", "_") }

// playFull writes its result to a file system that is too small for it. Its caller gave it a mount namespace.
func playFull() error {
	output := filepath.Join(os.Getenv(cache.EnvironmentVariable), "small")
	if err := os.Mkdir(output, 0o755); err != nil {
		return err
	}
	if err := syscall.Mount("small", output, "tmpfs", 0, "size=8m"); err != nil {
		return err
	}
	return solveAs(output, "fill /large 16")
}

// request is a build with one step that runs the base image's tool.
func request(c *cache.Cache, base, output, step string) builder.Request {
	return builder.Request{
		Name: "child", Dockerfile: []byte("FROM base\nRUN --network=none tool " + step + "\n"), Output: output, NoCache: true,
		Layouts: map[string]builder.Layout{"base": {Store: builder.Blobs(c), Digest: digest.Digest(base)}},
	}
}

// solve builds a short step to show that d works.
func solve(t *testing.T, d *Daemon, c *cache.Cache) {
	t.Helper()
	if _, err := builder.Solve(t.Context(), d, request(c, buildtest.Base(t, c).String(), t.TempDir(), "interfaces /i")); err != nil {
		t.Fatal(err)
	}
}

func newDaemon(t *testing.T, c *cache.Cache) *Daemon {
	t.Helper()
	d, err := New(Options{Cache: c, Buildkitd: buildtest.Buildkitd(t)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := d.Close(); err != nil {
			t.Errorf("closing: %v", err)
		}
	})
	return d
}

// ownerIn returns what the lock file in c says.
func ownerIn(c *cache.Cache) owner {
	f, err := os.Open(filepath.Join(c.Root(), "buildkitd", "lock"))
	if err != nil {
		return owner{}
	}
	defer f.Close()
	return readOwner(f)
}

// processes returns the ids of the processes whose command line begins with name and has word.
func processes(t *testing.T, name, word string) []int {
	t.Helper()
	all, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	var found []int
	for _, path := range all {
		line, _ := os.ReadFile(path)
		if bytes.HasPrefix(line, []byte(name)) && bytes.Contains(line, []byte(word)) {
			id, _ := strconv.Atoi(filepath.Base(filepath.Dir(path)))
			found = append(found, id)
		}
	}
	return found
}

// sink collects the names of the steps that were begun.
type sink struct {
	mu    sync.Mutex
	names []string
}

func (s *sink) add(status *client.SolveStatus) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, v := range status.Vertexes {
		s.names = append(s.names, v.Name)
	}
}

func (s *sink) has(prefix string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.ContainsFunc(s.names, func(name string) bool { return strings.HasPrefix(name, prefix) })
}

// waitForStep waits until the step "sleep word" of a build in c runs, and returns everything by which what it leaves can be found.
func waitForStep(t *testing.T, c *cache.Cache, word string) []string {
	t.Helper()
	buildtest.Eventually(t, "the step runs", func() bool {
		return len(processes(t, "tool", word)) > 0 || len(processes(t, "/bin/sh", word)) > 0
	})
	o := ownerIn(c)
	words := []string{c.Root(), o.Cgroup, "sleep " + word}
	if o.Cgroup == "" || len(buildtest.Leftovers(t, o.Cgroup)) < 2 {
		t.Fatalf("a running build has neither cgroup nor socket: %+v: %q", o, buildtest.Leftovers(t, words...))
	}
	return words
}

func nothingLeft(t *testing.T, words []string) {
	t.Helper()
	var left []string
	defer func() {
		if t.Failed() {
			t.Logf("left:\n%s", strings.Join(left, "\n"))
		}
	}()
	buildtest.Eventually(t, "nothing is left", func() bool {
		left = buildtest.Leftovers(t, words...)
		return len(left) == 0
	})
}

func TestCancelled(t *testing.T) {
	c := buildtest.Cache(t)
	base := buildtest.Base(t, c).String()
	d := newDaemon(t, c)
	ctx, cancel := context.WithCancelCause(t.Context())
	defer cancel(nil)
	word := wordFor(c.Root())
	solved := make(chan error, 1)
	output := t.TempDir()
	go func() {
		_, err := builder.Solve(ctx, d, request(c, base, output, "sleep "+word))
		solved <- err
	}()
	words := waitForStep(t, c, word)
	interrupted := errors.New("interrupted")
	cancel(interrupted)
	if err := <-solved; !errors.Is(err, interrupted) {
		t.Errorf("the cancelled build gave %v", err)
	}
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	if left := buildtest.Leftovers(t, words...); len(left) > 0 {
		t.Errorf("left after Close:\n%s", strings.Join(left, "\n"))
	}
	if _, err := d.Connect(t.Context()); err == nil {
		t.Error("a closed builder was started again")
	}
}

func TestTwoAtOnce(t *testing.T) {
	c := buildtest.Cache(t)
	first, second, third := newDaemon(t, c), newDaemon(t, c), newDaemon(t, c)
	if _, err := first.Connect(t.Context()); err != nil {
		t.Fatal(err)
	}
	waiting := "[builder] waiting for another nodeimg (pid " + strconv.Itoa(os.Getpid()) + ")"

	var shown sink
	connected := make(chan error, 1)
	go func() {
		_, err := second.Connect(progress.WithSink(t.Context(), shown.add))
		connected <- err
	}()
	buildtest.Eventually(t, "the second says that it waits", func() bool { return shown.has(waiting) })

	var given sink
	ctx, cancel := context.WithCancel(t.Context())
	gaveUp := make(chan error, 1)
	go func() {
		_, err := third.Connect(progress.WithSink(ctx, given.add))
		gaveUp <- err
	}()
	buildtest.Eventually(t, "the third says that it waits", func() bool { return given.has(waiting) })
	cancel()
	if err := <-gaveUp; !errors.Is(err, context.Canceled) {
		t.Errorf("a cancelled wait gave %v", err)
	}

	select {
	case err := <-connected:
		t.Fatalf("the second did not wait for the first: %v", err)
	default:
	}
	solve(t, first, c)
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	if err := <-connected; err != nil {
		t.Fatal(err)
	}
	solve(t, second, c)
}

func TestFullDisk(t *testing.T) {
	c := buildtest.Cache(t)
	cmd, out := play(t, "full", c)
	cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS}
	if err := cmd.Run(); err == nil {
		t.Fatal("16 MiB fitted into 8 MiB")
	}
	if !strings.Contains(out.String(), "a disk is full") {
		t.Errorf("the message does not say that a disk is full:\n%s", out)
	}
	nothingLeft(t, []string{c.Root()})
}

func TestStartFails(t *testing.T) {
	c := buildtest.Cache(t)
	// A real runtime that buildkitd accepts, and a buildkitd that ends at once because it does not understand its arguments.
	d, err := New(Options{Cache: c, Buildkitd: "/usr/bin/env"})
	if err != nil {
		t.Fatal(err)
	}
	_, err = d.Connect(t.Context())
	if err == nil || !strings.Contains(err.Error(), "buildkitd ended at once") || !strings.Contains(err.Error(), "unrecognized option '--config'") {
		t.Errorf("got %v", err)
	}
	nothingLeft(t, []string{c.Root()})
	solve(t, newDaemon(t, c), c)
}

func TestNewErrors(t *testing.T) {
	c := buildtest.Cache(t)
	buildkitd := buildtest.Buildkitd(t)
	for _, test := range []struct {
		name    string
		options Options
		want    string
		input   bool
	}{
		{"no buildkitd", Options{Cache: c}, `run "make build"`, false},
		{"buildkitd is not there", Options{Cache: c, Buildkitd: "/nowhere/buildkitd"}, "/nowhere/buildkitd", false},
		{"no runc", Options{Cache: c, Buildkitd: buildkitd}, "install the package runc", false},
		{"no sysbox-runc", Options{Cache: c, Buildkitd: buildkitd, Runtime: RuntimeSysbox}, "install Sysbox", false},
		{"unknown runtime", Options{Cache: c, Buildkitd: buildkitd, Runtime: "crunch"}, `"crunch": expected auto, runc, sysbox-runc or the path`, true},
		{"runtime is not there", Options{Cache: c, Buildkitd: buildkitd, Runtime: "/nowhere/crun"}, "/nowhere/crun", true},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Setenv("PATH", t.TempDir())
			_, err := New(test.options)
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("got %v, want something with %q", err, test.want)
			}
			var input *recipes.InputError
			if errors.As(err, &input) != test.input {
				t.Errorf("bad input is %t, want %t: %v", !test.input, test.input, err)
			}
		})
	}
	t.Run("Sysbox's daemons are down", func(t *testing.T) {
		dir := t.TempDir()
		if err := os.Symlink("/bin/true", filepath.Join(dir, RuntimeSysbox)); err != nil {
			t.Fatal(err)
		}
		t.Setenv("PATH", dir)
		if _, err := New(Options{Cache: c, Buildkitd: buildkitd, Runtime: RuntimeSysbox}); err == nil || !strings.Contains(err.Error(), "reaching sysbox-mgr") {
			t.Errorf("got %v", err)
		}
	})
	t.Run("no root", func(t *testing.T) {
		cmd, out := play(t, "unprivileged", nil)
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
		if err := cmd.Run(); err == nil || !strings.Contains(out.String(), "run nodeimg as root") {
			t.Errorf("got %v: %s", err, out)
		}
	})
}
