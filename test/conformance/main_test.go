package conformance

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/nodeimg/nodeimg/builder/child"
	"github.com/nodeimg/nodeimg/test/internal/separate"
	"github.com/nodeimg/nodeimg/test/internal/tools"
)

// The places that TestMain makes.
var (
	// work is a folder in memory that vanishes with the mount namespace.
	work string
	// dump is the compiled program, containerd a folder with containerd and ctr.
	dump, containerd string
)

func TestMain(m *testing.M) {
	// The suite starts builders in this process.
	child.Init()
	status, err := runTests(m)
	if err != nil {
		fmt.Fprintf(os.Stderr, "test/conformance: %v\n", err)
		status = 1
	}
	os.Exit(status)
}

func runTests(m *testing.M) (status int, err error) {
	if os.Geteuid() != 0 {
		return 1, fmt.Errorf("unpacking images needs root; run the tests as root")
	}
	if err := separate.Mounts(func() error { return nil }); err != nil {
		return 1, err
	}
	// A socket's path may have only 108 bytes, so the folder's name is short.
	if work, err = os.MkdirTemp("", "nodeimg-conf-"); err != nil {
		return 1, err
	}
	defer os.Remove(work)
	// overlayfs needs an upper folder that is not on overlayfs itself, wherever the tests run.
	if err := unix.Mount("conformance", work, "tmpfs", 0, "mode=0755"); err != nil {
		return 1, fmt.Errorf("mounting a file system in memory: %w", err)
	}
	defer unix.Unmount(work, unix.MNT_DETACH)
	ctx := context.Background()
	if containerd, err = tools.Containerd(ctx); err != nil {
		return 1, err
	}
	root, err := tools.Root(ctx)
	if err != nil {
		return 1, err
	}
	dump = filepath.Join(work, "dump")
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-buildvcs=false", "-o", dump, "./test/conformance/dump")
	cmd.Dir = root
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return 1, fmt.Errorf("compiling the dump program: %w\n%s", err, out)
	}
	status = m.Run()
	if stopDaemon != nil {
		err = stopDaemon()
	}
	return status, err
}

// stopDaemon ends the reference's containerd, if a test has started it.
var stopDaemon func() error
