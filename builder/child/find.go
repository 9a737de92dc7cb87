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

// sysboxSockets are where Sysbox's two daemons listen.
// See https://github.com/nestybox/sysbox/blob/master/docs/user-guide/design.md.
var sysboxSockets = []string{"/run/sysbox/sysmgr.sock", "/run/sysbox/sysfs.sock"}

// findBuildkitd returns the path of the daemon's binary: the one given, or beside this program, or in PATH.
func findBuildkitd(given string) (string, error) {
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

// findRuntime returns the path of the OCI runtime that runs the steps.
func findRuntime(name string) (string, error) {
	switch name {
	case "", RuntimeAuto, RuntimeRunc:
		// Sysbox is not chosen by itself: BuildKit's calls need a shim in front of it.
		for _, candidate := range []string{"runc", "buildkit-runc"} {
			if path, err := exec.LookPath(candidate); err == nil {
				return filepath.Abs(path)
			}
		}
		return "", errors.New("finding runc, which runs the build steps: it is not in PATH; install the package runc or give the path of an OCI runtime with --worker-runtime")
	case RuntimeSysbox:
		path, err := exec.LookPath(RuntimeSysbox)
		if err != nil {
			return "", errors.New("finding sysbox-runc: it is not in PATH; install Sysbox or choose --worker-runtime runc")
		}
		for _, socket := range sysboxSockets {
			conn, err := net.DialTimeout("unix", socket, time.Second)
			if err != nil {
				return "", fmt.Errorf("reaching Sysbox's daemons, which sysbox-runc needs: %w; start the service sysbox or choose --worker-runtime runc", err)
			}
			_ = conn.Close()
		}
		return filepath.Abs(path)
	}
	if !strings.ContainsRune(name, filepath.Separator) {
		return "", recipes.InputErrorf("choosing the worker runtime %q: expected %s, %s, %s or the path of an OCI runtime", name, RuntimeAuto, RuntimeRunc, RuntimeSysbox)
	}
	path, err := exec.LookPath(name)
	if err != nil {
		return "", recipes.InputErrorf("choosing the worker runtime: %v", err)
	}
	return filepath.Abs(path)
}
