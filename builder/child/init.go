package child

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// initName is the first argument of the process that Init recognises.
const initName = "nodeimg-buildkitd-init"

// The file descriptors that the init inherits: the reading end of a pipe whose writing end lives as long as the starter, and the
// locked file, which stays locked until the last process that has it is gone.
const (
	lifelineFD = 3
	lockFD     = 4
)

// The daemon gets daemonGrace to stop by itself, the init in turn initGrace: together with cancelling the build this stays below the
// five seconds after which a person presses Ctrl-C again.
const (
	daemonGrace = 2 * time.Second
	initGrace   = 3500 * time.Millisecond
)

// initRequest is what the starter tells the init.
type initRequest struct {
	Command     []string
	Environment []string
	// SocketDir and Cgroup are removed at the end.
	SocketDir, Cgroup string
	// Temporary is the folder that the daemon sees as tmp in SocketDir: BuildKit makes a socket in its TMPDIR, so the path has to be
	// short, and puts files there, so it has to lie on a disk.
	Temporary string
	// RuntimeState is where the OCI runtime keeps the state of its containers. The daemon sees a file system in memory there, so that
	// containers that were killed leave nothing.
	RuntimeState string
}

// initReady is set by Init in every process.
var initReady bool

// Init must be the first call in main, and in the TestMain of tests that start a Daemon. In a process that was started as a Daemon's
// init it does that work and never returns; in every other it returns at once.
func Init() {
	initReady = true
	if len(os.Args) != 2 || os.Args[0] != initName {
		return
	}
	status, err := runInit(os.Args[1])
	if err != nil {
		fmt.Fprintf(os.Stderr, "%s: %v\n", initName, err)
		status = 1
	}
	os.Exit(status)
}

// runInit runs the daemon as the first process of the namespaces until it ends, its starter ends or SIGTERM arrives. Then it kills
// everything in the process namespace and returns the daemon's exit status.
func runInit(request string) (int, error) {
	var r initRequest
	if err := json.Unmarshal([]byte(request), &r); err != nil {
		return 0, fmt.Errorf("reading the request: %w", err)
	}
	if os.Getpid() != 1 {
		return 0, errors.New("it must be the first process of a namespace")
	}
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, unix.SIGTERM, unix.SIGINT, unix.SIGHUP)
	for _, fd := range []int{lifelineFD, lockFD} {
		unix.CloseOnExec(fd)
	}
	lifeline := make(chan struct{})
	go func() {
		// Nothing is ever written: reading ends when the starter closes its end or dies.
		_, _ = os.NewFile(lifelineFD, "lifeline").Read(make([]byte, 1))
		close(lifeline)
	}()

	// Slave, not private: what the host unmounts is unmounted here too, and nothing mounted here reaches the host.
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_SLAVE, ""); err != nil {
		return 0, fmt.Errorf("separating mounts: %w", err)
	}
	if err := unix.Mount("proc", "/proc", "proc", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, ""); err != nil {
		return 0, fmt.Errorf("mounting /proc: %w", err)
	}
	short := temporaryIn(r.SocketDir)
	if err := unix.Mount(r.Temporary, short, "", unix.MS_BIND, ""); err != nil {
		return 0, fmt.Errorf("mounting the folder for temporary files: %w", err)
	}
	if err := os.MkdirAll(r.RuntimeState, 0o711); err != nil {
		return 0, err
	}
	if err := unix.Mount("nodeimg", r.RuntimeState, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=0711"); err != nil {
		return 0, fmt.Errorf("mounting the folder for the state of containers: %w", err)
	}
	null, err := os.Open(os.DevNull)
	if err != nil {
		return 0, err
	}
	daemon, err := syscall.ForkExec(r.Command[0], r.Command, &syscall.ProcAttr{
		Env: r.Environment,
		// The daemon holds the lock as well: should the init be killed, the next one waits until the daemon is gone.
		Files: []uintptr{null.Fd(), 1, 2, lockFD},
	})
	if err != nil {
		return 0, fmt.Errorf("starting %s: %w", r.Command[0], err)
	}
	ended, all := reap(daemon)

	var kill <-chan time.Time
	terminate := func() {
		if kill == nil {
			_ = unix.Kill(daemon, unix.SIGTERM)
			kill = time.After(daemonGrace)
		}
	}
	status := 0
	for running := true; running; {
		select {
		case status = <-ended:
			running = false
		case <-stop:
			terminate()
		case <-lifeline:
			lifeline = nil
			terminate()
		case <-kill:
			running = false
		}
	}
	_ = unix.Kill(-1, unix.SIGKILL)
	<-all
	if err := unix.Unmount(short, unix.MNT_DETACH); err == nil {
		_ = os.RemoveAll(r.SocketDir)
	}
	return status, removeCgroups(r.Cgroup)
}

// temporaryIn is the daemon's TMPDIR.
func temporaryIn(socketDir string) string { return filepath.Join(socketDir, "tmp") }

// reap collects every process of the namespace. It sends the exit status of the process pid and closes all when none is left.
func reap(pid int) (ended <-chan int, all <-chan struct{}) {
	status, none := make(chan int, 1), make(chan struct{})
	go func() {
		defer close(none)
		for {
			var ws unix.WaitStatus
			got, err := unix.Wait4(-1, &ws, 0, nil)
			if errors.Is(err, unix.EINTR) {
				continue
			}
			if err != nil {
				return
			}
			if got == pid {
				if ws.Signaled() {
					status <- 128 + int(ws.Signal())
				} else {
					status <- ws.ExitStatus()
				}
			}
		}
	}()
	return status, none
}
