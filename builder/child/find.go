package child

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/nodeimg/nodeimg/recipes"
)

// The worker runtimes that Options.Runtime knows by name; anything else is the path of an OCI runtime.
const (
	RuntimeAuto   = "auto"
	RuntimeRunc   = "runc"
	RuntimeSysbox = "sysbox-runc"
)

// sysboxDaemon is one of the two daemons that sysbox-runc works with.
type sysboxDaemon struct {
	name, socket, log string
}

// sysboxDaemons are where Sysbox's packages have them; the sockets cannot be moved.
// See https://github.com/nestybox/sysbox/blob/master/docs/user-guide/design.md and troubleshoot.md beside it.
var sysboxDaemons = []sysboxDaemon{
	{"sysbox-mgr", "/run/sysbox/sysmgr.sock", "/var/log/sysbox-mgr.log"},
	{"sysbox-fs", "/run/sysbox/sysfs.sock", "/var/log/sysbox-fs.log"},
}

// sysboxAnswer is how long a daemon may take to accept a connection.
const sysboxAnswer = time.Second

// runtimes are the paths of the OCI runtimes that run the steps.
type runtimes struct {
	// steps runs every step that sysbox does not run.
	steps string
	// sysbox runs the steps that start a container runtime of the node; empty when steps runs those too.
	sysbox string
}

// FindBuildkitd returns the path of the daemon's binary: the one given, or beside this program, or in PATH.
func FindBuildkitd(given string) (string, error) {
	if given != "" {
		path, err := exec.LookPath(given)
		if err != nil {
			return "", fmt.Errorf("finding buildkitd: %w", err)
		}
		return filepath.Abs(path)
	}
	if self, err := os.Executable(); err == nil {
		if path, err := exec.LookPath(filepath.Join(filepath.Dir(self), "buildkitd")); err == nil {
			return path, nil
		}
	}
	path, err := exec.LookPath("buildkitd")
	if err != nil {
		return "", errors.New("finding buildkitd: it is neither beside nodeimg nor in PATH; run \"make build\", which makes both, or give the address of a running one with --builder")
	}
	return filepath.Abs(path)
}

// findRuntimes returns the OCI runtimes for the worker runtime of that name.
func findRuntimes(name string) (runtimes, error) {
	switch name {
	case "", RuntimeAuto:
		steps, err := FindRunc()
		if err != nil {
			return runtimes{}, err
		}
		// Without Sysbox, or while it does not work, everything runs under runc.
		sysbox, err := findSysbox(RuntimeSysbox)
		if err != nil {
			return runtimes{steps: steps}, nil
		}
		return runtimes{steps, sysbox}, nil
	case RuntimeRunc:
		steps, err := FindRunc()
		return runtimes{steps: steps}, err
	}
	if filepath.Base(name) == RuntimeSysbox {
		sysbox, err := findSysbox(name)
		if err != nil {
			return runtimes{}, err
		}
		steps, err := FindRunc()
		return runtimes{steps, sysbox}, err
	}
	if !strings.ContainsRune(name, filepath.Separator) {
		return runtimes{}, recipes.InputErrorf("choosing the worker runtime %q: expected %s, %s, %s or the path of an OCI runtime", name, RuntimeAuto, RuntimeRunc, RuntimeSysbox)
	}
	path, err := exec.LookPath(name)
	if err != nil {
		return runtimes{}, recipes.InputErrorf("choosing the worker runtime: %v", err)
	}
	steps, err := filepath.Abs(path)
	return runtimes{steps: steps}, err
}

// FindRunc returns the path of the runtime that runs the build steps: runc, else BuildKit's own copy of it, in PATH.
func FindRunc() (string, error) {
	for _, candidate := range []string{"runc", "buildkit-runc"} {
		if path, err := exec.LookPath(candidate); err == nil {
			return filepath.Abs(path)
		}
	}
	return "", errors.New("finding runc, which runs the build steps: it is not in PATH; install the package runc or give the path of an OCI runtime with --worker-runtime")
}

// findSysbox returns the path of sysbox-runc if it is there and its daemons answer.
func findSysbox(name string) (string, error) {
	path, err := exec.LookPath(name)
	if err != nil {
		if name != RuntimeSysbox {
			return "", recipes.InputErrorf("choosing the worker runtime: %v", err)
		}
		return "", errors.New("finding sysbox-runc: it is not in PATH; install Sysbox (https://github.com/nestybox/sysbox) or choose --worker-runtime runc")
	}
	if err := SysboxAnswers(); err != nil {
		return "", fmt.Errorf("%w or choose --worker-runtime runc", err)
	}
	return filepath.Abs(path)
}

// SysboxAnswers makes sure that both of Sysbox's daemons accept connections. The error names the first one that does not.
func SysboxAnswers() error {
	for _, daemon := range sysboxDaemons {
		conn, err := net.DialTimeout("unix", daemon.socket, sysboxAnswer)
		if err != nil {
			return fmt.Errorf("reaching %s, which sysbox-runc needs: %w; start it with \"systemctl start sysbox\"", daemon.name, err)
		}
		_ = conn.Close()
	}
	return nil
}
