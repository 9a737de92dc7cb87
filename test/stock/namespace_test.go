package stock

import (
	"fmt"
	"runtime"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// namespace runs functions in a network namespace of its own, with a loopback device and no way out. For the programs that they start it
// is the host's: ports that the Engine publishes there can be reached, and no other Engine's rules or bridges are in the way.
type namespace struct{ work chan func() }

// newNamespace makes a namespace that lasts as long as this process.
func newNamespace() (*namespace, error) {
	n := &namespace{work: make(chan func())}
	made := make(chan error)
	go func() {
		// Namespaces belong to threads, and programs get that of the thread that starts them. This one is nobody else's, ever.
		runtime.LockOSThread()
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			made <- fmt.Errorf("making a network namespace, which needs root: %w", err)
			return
		}
		lo, err := netlink.LinkByName("lo")
		if err == nil {
			err = netlink.LinkSetUp(lo)
		}
		made <- err
		for f := range n.work {
			f()
		}
	}()
	return n, <-made
}

// do runs f in the namespace; what f starts stays in it.
func (n *namespace) do(f func() error) error {
	done := make(chan error)
	n.work <- func() { done <- f() }
	return <-done
}
