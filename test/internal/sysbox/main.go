// Command sysbox stands in for Sysbox, which is not on the test machines. Called as sysbox-runc it wraps the runc in PATH, called as
// sysbox-mgr it is the daemon behind both of Sysbox's sockets. Where BuildKit and images are concerned it does what the real one does:
//
//   - it knows no --keep and no network that is the host's;
//   - the container has a user namespace; the layers below its root file system are ID-mapped and the topmost is given to the mapped
//     users, by chown, until the container is unregistered;
//   - the daemon finds processes and root file systems by the ids and paths that it is told, in its own namespaces;
//   - volumes lie over /var/lib/docker and containerd's overlayfs snapshots; at the end they are copied back without device nodes,
//     which whiteouts are, and without extended attributes;
//   - a container that ends is deleted and unregistered at once, and cannot be deleted again.
//
// See mgr.go of https://github.com/nestybox/sysbox-mgr and libsysbox of https://github.com/nestybox/sysbox-runc. Everything lies in the
// folder of the program: run (sockets), log, data.
package main

import (
	"fmt"
	"os"
	"path/filepath"
)

// firstID is the user and group on the host that root of a container is, idCount how many are mapped.
const (
	firstID = 100000
	idCount = 65536
)

// place is the folder of the program.
var place = filepath.Dir(os.Args[0])

func main() {
	var err error
	status := 1
	switch filepath.Base(os.Args[0]) {
	case "sysbox-runc":
		status, err = runtimeMain(os.Args[1:])
	case "sysbox-mgr":
		err = serve(len(os.Args) > 1 && os.Args[1] == "--broken")
	case "sysbox-userns":
		// A process that only holds a user namespace, until its input ends.
		_, err = os.Stdin.Read(make([]byte, 1))
	default:
		err = fmt.Errorf("called by the unknown name %s", os.Args[0])
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
	}
	os.Exit(status)
}
