package modules

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"
	"time"
)

// platform is what is compiled for.
type platform struct{ os, arch, variant string }

// String is the platform as in a recipe.
func (p platform) String() string {
	if p.variant != "" {
		return p.os + "/" + p.arch + "/" + p.variant
	}
	return p.os + "/" + p.arch
}

// parsePlatform reads os/arch[/variant]; only Linux has Kubernetes nodes that nodeimg can make.
func parsePlatform(s string) (platform, error) {
	fields := strings.Split(s, "/")
	if len(fields) < 2 || len(fields) > 3 || fields[0] != "linux" || fields[1] == "" {
		return platform{}, fmt.Errorf("compiling for platform %q: expected linux/ARCHITECTURE, for instance linux/amd64", s)
	}
	p := platform{os: fields[0], arch: fields[1]}
	if len(fields) == 3 {
		p.variant = fields[2]
	}
	return p, nil
}

// environment makes go compile for p; the instruction set level is the architecture's baseline, whatever the user's own default is.
func (p platform) environment() []string {
	env := []string{"GOOS=" + p.os, "GOARCH=" + p.arch, "GOAMD64=v1", "GOARM64=v8.0"}
	if p.arch == "arm" {
		env = append(env, "GOARM="+strings.TrimPrefix(p.variant, "v"))
	}
	return env
}

// golang is the go command with what matters of its configuration.
type golang struct {
	path string
	// Version is what compiles, for instance go1.26.8.
	Version    string `json:"GOVERSION"`
	SumDB      string `json:"GOSUMDB"`
	HostOS     string `json:"GOHOSTOS"`
	HostArch   string `json:"GOHOSTARCH"`
	Experiment string `json:"GOEXPERIMENT"`
	FIPS140    string `json:"GOFIPS140"`
	CC         string `json:"CC"`
	CFlags     string `json:"CGO_CFLAGS"`
	LDFlags    string `json:"CGO_LDFLAGS"`
}

// environment is the user's, so that proxy, credentials and caches are theirs, with what would change the result fixed. No module is
// exempt from the checksum database.
func environment(extra ...string) []string {
	return append(os.Environ(), append([]string{
		"GO111MODULE=on", "GOWORK=off", "GOFLAGS=-mod=mod", "GONOSUMDB=none", "GIT_TERMINAL_PROMPT=0", "LC_ALL=C",
	}, extra...)...)
}

// findGo looks for go in PATH and reads its configuration; work is a folder to run it in, which may
// have leftovers of it afterwards.
func findGo(ctx context.Context, work string) (*golang, error) {
	path, err := exec.LookPath("go")
	if err != nil {
		return nil, fmt.Errorf("looking for the go command: %w; kubernetes.source modules compiles with it: install Go, or use kubernetes.source release", err)
	}
	g := &golang{path: path}
	out, err := g.run(ctx, work, temporaryIn(work), nil, "env", "-json", "GOVERSION", "GOSUMDB", "GOHOSTOS", "GOHOSTARCH", "GOEXPERIMENT", "GOFIPS140", "CC", "CGO_CFLAGS", "CGO_LDFLAGS")
	if err != nil {
		return nil, fmt.Errorf("reading the configuration of %s: %w", path, err)
	}
	if err := json.Unmarshal(out, g); err != nil {
		return nil, fmt.Errorf("reading the configuration of %s: %w", path, err)
	}
	if g.SumDB == "off" {
		return nil, errors.New("compiling from Go modules: GOSUMDB is off, so nothing would vouch for what is downloaded; unset it (go env -u GOSUMDB, unset GOSUMDB)")
	}
	return g, nil
}

// tailLines is how much of go's output an error shows.
const tailLines = 20

// killWait is how long go's output may stay open after it was killed.
const killWait = 5 * time.Second

// run runs go with args in dir and returns its standard output. Its standard error goes to log line by line, its end into the error.
// When ctx ends, go is killed with everything that it started.
func (g *golang) run(ctx context.Context, dir string, env []string, log func(line string), args ...string) ([]byte, error) {
	out, err := execute(ctx, dir, env, log, append([]string{g.path}, args...))
	if err != nil && ctx.Err() == nil {
		return out, fmt.Errorf("running go %s: %w", args[0], err)
	}
	return out, err
}

// execute is run for any command, given by its path and arguments.
func execute(ctx context.Context, dir string, env []string, log func(line string), command []string) ([]byte, error) {
	// The kernel kills the process when the thread that started it ends, which is why the thread is kept until the process has ended.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()

	var stdout bytes.Buffer
	lines := &lineWriter{log: log}
	cmd := exec.CommandContext(ctx, command[0], command[1:]...)
	cmd.Dir = dir
	cmd.Env = environment(env...)
	cmd.Stdout = &stdout
	cmd.Stderr = lines
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = killWait
	err := cmd.Run()
	lines.flush()
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	if err != nil {
		return stdout.Bytes(), fmt.Errorf("%w%s", err, lines.last())
	}
	return stdout.Bytes(), nil
}

// lineWriter passes on whole lines and remembers the last ones.
type lineWriter struct {
	log     func(string)
	pending []byte
	tail    []string
}

// Write implements io.Writer.
func (w *lineWriter) Write(p []byte) (int, error) {
	w.pending = append(w.pending, p...)
	for {
		line, rest, found := bytes.Cut(w.pending, []byte("\n"))
		if !found {
			return len(p), nil
		}
		w.pending = rest
		w.line(string(line))
	}
}

func (w *lineWriter) line(s string) {
	if w.log != nil {
		w.log(s)
	}
	w.tail = append(w.tail, s)
	if len(w.tail) > tailLines {
		w.tail = w.tail[1:]
	}
}

func (w *lineWriter) flush() {
	if len(w.pending) > 0 {
		w.line(string(w.pending))
		w.pending = nil
	}
}

// last is the remembered output, to be appended to an error.
func (w *lineWriter) last() string {
	if len(w.tail) == 0 {
		return ""
	}
	return ":\n" + strings.Join(w.tail, "\n")
}
