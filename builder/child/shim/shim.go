package shim

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
)

// Main must be called before anything else in a program that calls Install. In a process that was called as a runtime it does that
// work and never returns; in every other it returns at once.
func Main() {
	if filepath.Base(os.Args[0]) != name {
		return
	}
	status, err := run(filepath.Dir(os.Args[0]), os.Args[1:])
	if err != nil {
		fmt.Fprintf(os.Stderr, "%s: %v\n", name, err)
		status = 1
	}
	os.Exit(status)
}

// run carries out one command line of the runtime in dir and returns its exit status. Where nothing is to be done afterwards, the
// process becomes the real runtime.
func run(dir string, args []string) (int, error) {
	config, err := read(dir)
	if err != nil {
		return 0, err
	}
	c, err := parse(args)
	if err != nil {
		return 0, err
	}
	id, err := c.container()
	if err != nil {
		return 0, err
	}
	runtime := config.Runc
	if c.name == "run" || c.name == "create" {
		spec, err := readSpec(c.bundle)
		if err != nil {
			return 0, err
		}
		if spec.marked(config.Mark) && id != "" {
			return runMarked(dir, config, c, id, spec.Root.Path)
		}
	} else if _, err := os.Lstat(markPath(dir, id)); id != "" && err == nil {
		runtime = config.Sysbox
	}
	if c.name == "delete" && id != "" {
		return remove(dir, config, runtime, c, id)
	}
	line := c.line(stateDir(dir, runtime), c.log, c.flags)
	if err := syscall.Exec(runtime, append([]string{runtime}, line...), os.Environ()); err != nil {
		return 0, fmt.Errorf("calling %s: %w", runtime, err)
	}
	return 0, nil
}

// containerSpec is what the shim has to know of a container.
// See https://github.com/opencontainers/runtime-spec/blob/v1.3.0/config.md.
type containerSpec struct {
	Process struct {
		Env []string `json:"env"`
	} `json:"process"`
	Root struct {
		Path string `json:"path"`
	} `json:"root"`
}

// readSpec reads the description of the container in bundle, with an absolute path of its root file system.
func readSpec(bundle string) (*containerSpec, error) {
	path := filepath.Join(bundle, "config.json")
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	var spec containerSpec
	if err := json.Unmarshal(b, &spec); err != nil {
		return nil, fmt.Errorf("reading %s: %w", path, err)
	}
	if !filepath.IsAbs(spec.Root.Path) {
		spec.Root.Path = filepath.Join(bundle, spec.Root.Path)
	}
	return &spec, nil
}

// marked says whether the variable is set, and not empty, for the container's process.
func (s *containerSpec) marked(variable string) bool {
	return slices.ContainsFunc(s.Process.Env, func(entry string) bool {
		value, ok := strings.CutPrefix(entry, variable+"=")
		return ok && value != ""
	})
}

// forget removes what the shim remembers of a container.
func forget(dir, id string) error {
	_ = os.Remove(logPath(dir, id))
	if err := os.Remove(markPath(dir, id)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}
