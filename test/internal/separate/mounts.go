package separate

import (
	"fmt"
	"os"
	"runtime"
	"syscall"

	"golang.org/x/sys/unix"
)

// variable marks the process that runs in its own mount namespace.
const variable = "NODEIMG_TEST_SEPARATED"

// Mounts runs this program again, with the same arguments, in a mount namespace of its own, in which prepare has run. It returns nil in that
// second run, and does not return in the first unless it fails. It needs root.
func Mounts(prepare func() error) error {
	if os.Getenv(variable) != "" {
		return os.Unsetenv(variable)
	}
	// Namespaces belong to threads, and exec keeps those of the thread that calls it.
	runtime.LockOSThread()
	if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
		return fmt.Errorf("making a mount namespace: %w", err)
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("separating mounts: %w", err)
	}
	if err := prepare(); err != nil {
		return err
	}
	return syscall.Exec("/proc/self/exe", os.Args, append(os.Environ(), variable+"=1"))
}
