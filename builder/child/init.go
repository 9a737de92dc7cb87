package child

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nodeimg/nodeimg/builder/child/shim"
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
	// State is the folder with the daemon's state.
	State string
	// Temporary is the folder that the daemon sees as tmp in SocketDir: BuildKit makes a socket in its TMPDIR, so the path has to be
	// short, and puts files there, so it has to lie on a disk.
	Temporary string
	// RuntimeState is where the OCI runtime keeps the state of its containers. The daemon sees a file system in memory there, so that
	// containers that were killed leave nothing.
	RuntimeState string
	// Sysbox, when set, is the runtime that the daemon calls; then the init and the daemon stay in the namespaces of the starter.
	Sysbox *shim.Config
}

// initReady is set by Init in every process.
var initReady bool

// Init must be the first call in main, and in the TestMain of tests that start a Daemon. In a process that was started as a Daemon's
// init, or called by a Daemon's buildkitd as an OCI runtime, it does that work and never returns; in every other it returns at once.
func Init() {
	initReady = true
	shim.Main()
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
	// The kernel kills the daemon when the thread ends that has started it.
	runtime.LockOSThread()
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

	enter := isolate
	if r.Sysbox != nil {
		enter = join
	}
	if err := enter(r); err != nil {
		return 0, err
	}
	null, err := os.Open(os.DevNull)
	if err != nil {
		return 0, err
	}
	daemon, err := syscall.ForkExec(r.Command[0], r.Command, &syscall.ProcAttr{
		Env: r.Environment,
		// The daemon holds the lock as well: should the init be killed, the next one waits until the daemon is gone.
		Files: []uintptr{null.Fd(), 1, 2, lockFD},
		Sys:   &syscall.SysProcAttr{Pdeathsig: unix.SIGKILL},
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
	if r.Sysbox != nil {
		killAll(all)
		killCgroups(r.Cgroup)
		err = leave(r.SocketDir, r.State)
	} else {
		_ = unix.Kill(-1, unix.SIGKILL)
		<-all
		err = unix.Unmount(temporaryIn(r.SocketDir), unix.MNT_DETACH)
	}
	if err == nil {
		_ = os.RemoveAll(r.SocketDir)
	}
	return status, removeCgroups(r.Cgroup)
}

// isolate makes the namespaces of the process the daemon's own: what runs in them and is mounted in them ends with this process.
func isolate(r initRequest) error {
	if os.Getpid() != 1 {
		return errors.New("it must be the first process of a namespace")
	}
	// Slave, not private: what the host unmounts is unmounted here too, and nothing mounted here reaches the host.
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_SLAVE, ""); err != nil {
		return fmt.Errorf("separating mounts: %w", err)
	}
	if err := unix.Mount("proc", "/proc", "proc", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, ""); err != nil {
		return fmt.Errorf("mounting /proc: %w", err)
	}
	short := temporaryIn(r.SocketDir)
	if err := os.Mkdir(short, 0o700); err != nil {
		return err
	}
	if err := unix.Mount(r.Temporary, short, "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("mounting the folder for temporary files: %w", err)
	}
	if err := os.MkdirAll(r.RuntimeState, 0o711); err != nil {
		return err
	}
	if err := unix.Mount("nodeimg", r.RuntimeState, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=0711"); err != nil {
		return fmt.Errorf("mounting the folder for the state of containers: %w", err)
	}
	return nil
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
