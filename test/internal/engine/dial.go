package engine

import (
	"context"
	"fmt"
	"net"
	"os"
	"runtime"

	"golang.org/x/sys/unix"
)

// Dial connects to an IP address and port in the Engine's network namespace, where published ports are.
func (e *Engine) Dial(ctx context.Context, network, address string) (net.Conn, error) {
	fail := func(err error) (net.Conn, error) {
		return nil, fmt.Errorf("connecting to %s in the Engine's network: %w", address, err)
	}
	pid, err := e.PID()
	if err != nil {
		return fail(err)
	}
	theirs, err := os.Open(fmt.Sprintf("/proc/%d/ns/net", pid))
	if err != nil {
		return fail(err)
	}
	defer theirs.Close()
	runtime.LockOSThread()
	own, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		runtime.UnlockOSThread()
		return fail(err)
	}
	defer own.Close()
	if err := unix.Setns(int(theirs.Fd()), unix.CLONE_NEWNET); err != nil {
		runtime.UnlockOSThread()
		return fail(err)
	}
	conn, err := new(net.Dialer).DialContext(ctx, network, address)
	// A thread that cannot come back stays locked, and ends with its goroutine.
	if back := unix.Setns(int(own.Fd()), unix.CLONE_NEWNET); back == nil {
		runtime.UnlockOSThread()
	}
	if err != nil {
		return fail(err)
	}
	return conn, nil
}
