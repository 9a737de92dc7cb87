package doctor

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/nodeimg/nodeimg/builder/child"
	"github.com/nodeimg/nodeimg/builder/remote"
)

func checkBuildKit(ctx context.Context, _ *host) verdict {
	if address := os.Getenv(remote.EnvironmentVariable); address != "" {
		return reachBuilder(ctx, address)
	}
	path, err := child.FindBuildkitd("")
	switch {
	case err != nil:
		return verdict{Failed, err.Error(), "\"make build\" makes nodeimg and buildkitd: keep them in one folder, or set BUILDKIT_HOST to a running one"}
	case os.Geteuid() != 0:
		return verdict{Failed, path + ", which needs root", "run nodeimg build as root, or set BUILDKIT_HOST to a running buildkitd; nodeimg up does not need it"}
	}
	return verdict{OK, path, ""}
}

func reachBuilder(ctx context.Context, address string) verdict {
	remedy := "start a buildkitd there, or unset BUILDKIT_HOST so that nodeimg starts its own"
	b, err := remote.New(address)
	if err != nil {
		return verdict{Failed, err.Error(), remedy}
	}
	defer b.Close()
	if _, err := b.Connect(ctx); err != nil {
		return verdict{Failed, err.Error(), remedy}
	}
	return verdict{OK, "running at " + b.String(), ""}
}

func checkRunc(ctx context.Context, _ *host) verdict {
	path, err := child.FindRunc()
	if err != nil {
		if os.Getenv(remote.EnvironmentVariable) != "" {
			return verdict{OK, "not in PATH; the running buildkitd has its own", ""}
		}
		return verdict{Failed, err.Error(), "install the package runc"}
	}
	version, err := output(ctx, path, "--version")
	if err != nil {
		return verdict{Failed, err.Error(), "install the package runc anew"}
	}
	return verdict{OK, fmt.Sprintf("%s: %s", path, version), ""}
}

// find is the verdict about programs that must all be in PATH; found is of the last one. A missing one has the state.
func find(state State, remedy string, names ...string) (path string, v verdict) {
	var missing []string
	for _, name := range names {
		var err error
		if path, err = exec.LookPath(name); err != nil {
			missing = append(missing, name)
		}
	}
	if len(missing) > 0 {
		return "", verdict{state, strings.Join(missing, ", ") + " not in PATH", remedy}
	}
	return path, verdict{OK, path, ""}
}

func checkApt(ctx context.Context, _ *host) verdict {
	path, v := find(Failed, "every recipe resolves packages: build on Debian or Ubuntu, or install the packages apt and dpkg", "apt-config", "dpkg-deb", "apt-get")
	return versioned(ctx, v, path, "--version")
}

func checkMmdebstrap(ctx context.Context, _ *host) verdict {
	path, v := find(Warning, "recipes with base.from packages need it: install the package mmdebstrap, or use base.from image", "mmdebstrap")
	return versioned(ctx, v, path, "--version")
}

func checkGo(ctx context.Context, _ *host) verdict {
	remedy := "recipes with kubernetes.source modules need it: install Go (https://go.dev/doc/install), or use kubernetes.source release"
	path, v := find(Warning, remedy, "go")
	return versioned(ctx, v, path, "version")
}

func checkCompiler(ctx context.Context, _ *host) verdict {
	remedy := "recipes with kubernetes.source modules need it: install the packages gcc, libc6-dev, pkg-config and libseccomp-dev"
	path, v := find(Warning, remedy, "pkg-config", "gcc")
	if v.state != OK {
		return v
	}
	if _, err := output(ctx, "pkg-config", "--exists", "--print-errors", "libseccomp"); err != nil {
		return verdict{Warning, fmt.Sprintf("%s, but not the library libseccomp", path), remedy}
	}
	return versioned(ctx, v, path, "--version")
}

// versioned adds to a verdict that is ok what the program says of its version. One that cannot say it does not work.
func versioned(ctx context.Context, v verdict, path string, arguments ...string) verdict {
	if v.state != OK {
		return v
	}
	version, err := output(ctx, path, arguments...)
	if err != nil {
		return verdict{Warning, err.Error(), "install it anew"}
	}
	v.found += ": " + version
	return v
}

// output runs a program and returns the first line that it prints. The go command would write counters into the user's configuration folder
// and fetch another version of itself; it is kept from both.
func output(ctx context.Context, path string, arguments ...string) (string, error) {
	cmd := exec.CommandContext(ctx, path, arguments...)
	cmd.Dir = "/"
	cmd.Env = append(os.Environ(), "LC_ALL=C.UTF-8", "XDG_CONFIG_HOME="+os.DevNull, "GOENV=off", "GOTOOLCHAIN=local")
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = time.Second
	out, err := cmd.Output()
	name := filepath.Base(path)
	if err != nil {
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		if exit := new(exec.ExitError); errors.As(err, &exit) {
			err = fmt.Errorf("%w: %s", err, bytes.TrimSpace(exit.Stderr))
		}
		return "", fmt.Errorf("running %s: %w", name, err)
	}
	line, _, _ := strings.Cut(strings.TrimSpace(string(out)), "\n")
	return line, nil
}
