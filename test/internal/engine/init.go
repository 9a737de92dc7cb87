package engine

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"syscall"
	"time"

	"github.com/moby/sys/mount"
	"github.com/vishvananda/netlink"
)

// InitOptions configure Init.
type InitOptions struct {
	// Dir is the Engine's state folder, Programs the folder of its programs.
	Dir, Programs string
	// Network is the network namespace that the process is in.
	Network Network
	// ContainerdRoot is as in Options.
	ContainerdRoot string
	// Flags are given to dockerd in addition.
	Flags []string
}

// Init is the Engine's PID 1. It makes the namespaces usable, runs containerd and dockerd, and reaps what they orphan. It returns
// when one of the two has ended: without error when that followed a SIGTERM.
func Init(options InitOptions) error {
	// The host's later mounts stay visible, the Engine's own stay inside.
	if err := mount.MakeRSlave("/"); err != nil {
		return fmt.Errorf("separating the Engine's mounts: %w", err)
	}
	if err := mount.Mount("proc", "/proc", "proc", "nosuid,noexec,nodev"); err != nil {
		return fmt.Errorf("mounting the PID namespace's /proc: %w", err)
	}
	if err := separateRun(); err != nil {
		return fmt.Errorf("separating the Engine's /run: %w", err)
	}
	if options.Network == OwnNetwork {
		loopback, err := netlink.LinkByName("lo")
		if err == nil {
			err = netlink.LinkSetUp(loopback)
		}
		if err != nil {
			return fmt.Errorf("setting up the loopback device: %w", err)
		}
	}
	if err := os.Setenv("PATH", options.Programs+":"+os.Getenv("PATH")+":/usr/sbin:/sbin"); err != nil {
		return err
	}
	signals := make(chan os.Signal, 16)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGCHLD)

	containerd, err := startContainerd(options)
	if err != nil {
		return fmt.Errorf("starting containerd: %w", err)
	}
	ordered, err := orders(options.Dir)
	if err != nil {
		return fmt.Errorf("listening for orders: %w", err)
	}
	dockerd := daemon{options: options}
	if dockerd.process, err = startDockerd(options); err != nil {
		return fmt.Errorf("starting dockerd: %w", err)
	}
	stopping := false
	for {
		select {
		case o := <-ordered:
			dockerd.obey(o)
			continue
		case signal := <-signals:
			if signal == syscall.SIGTERM && dockerd.process == nil {
				return nil
			}
			if signal == syscall.SIGTERM {
				stopping = true
				_ = dockerd.process.Signal(syscall.SIGTERM)
				continue
			}
		}
		for {
			var status syscall.WaitStatus
			pid, err := syscall.Wait4(-1, &status, syscall.WNOHANG, nil)
			if errors.Is(err, syscall.EINTR) {
				continue
			}
			if err != nil || pid <= 0 {
				break
			}
			switch {
			case dockerd.process != nil && pid == dockerd.process.Pid && stopping:
				return nil
			case dockerd.process != nil && pid == dockerd.process.Pid && dockerd.ended != nil:
				dockerd.ended(nil)
				dockerd.process, dockerd.ended = nil, nil
			case dockerd.process != nil && pid == dockerd.process.Pid:
				return fmt.Errorf("dockerd ended with status %d", status.ExitStatus())
			case pid == containerd.Pid && !stopping:
				return fmt.Errorf("containerd ended with status %d", status.ExitStatus())
			}
		}
	}
}

// startContainerd starts containerd with nothing but what the Engine needs of it.
func startContainerd(options InitOptions) (*os.Process, error) {
	dir := filepath.Join(options.Dir, "containerd")
	if err := os.MkdirAll(dir, 0o711); err != nil {
		return nil, err
	}
	root := options.ContainerdRoot
	if root == "" {
		root = filepath.Join(dir, "root")
	}
	config := filepath.Join(dir, "config.toml")
	text := fmt.Sprintf(`version = 3
root = %q
state = %q
disabled_plugins = ["io.containerd.cri.v1.images", "io.containerd.cri.v1.runtime", "io.containerd.grpc.v1.cri", "io.containerd.nri.v1.nri"]
[grpc]
  address = %q
[plugins."io.containerd.internal.v1.opt"]
  path = %q
`, root, filepath.Join(dir, "state"), filepath.Join(dir, "containerd.sock"), filepath.Join(dir, "opt"))
	if err := os.WriteFile(config, []byte(text), 0o644); err != nil {
		return nil, err
	}
	p, err := start(filepath.Join(options.Programs, "containerd"), "--config", config, "--log-level", "info")
	if err != nil {
		return nil, err
	}
	for deadline := time.Now().Add(startLimit); time.Now().Before(deadline); time.Sleep(50 * time.Millisecond) {
		if _, err := os.Stat(filepath.Join(dir, "containerd.sock")); err == nil {
			return p, nil
		}
	}
	return nil, errors.New("its socket does not appear")
}

// startDockerd starts dockerd. It has no default bridge: nodes live on networks that somebody makes.
func startDockerd(options InitOptions) (*os.Process, error) {
	config := filepath.Join(options.Dir, "daemon.json")
	if err := os.WriteFile(config, []byte("{}\n"), 0o644); err != nil {
		return nil, err
	}
	args := []string{
		"--config-file", config,
		"--host", hostOf(options.Dir),
		"--data-root", filepath.Join(options.Dir, "data"),
		"--exec-root", filepath.Join(options.Dir, "exec"),
		"--pidfile", pidFile(options.Dir),
		"--containerd", filepath.Join(options.Dir, "containerd", "containerd.sock"),
		"--userland-proxy-path", filepath.Join(options.Programs, "docker-proxy"),
		"--cgroup-parent", "/" + cgroupName(options.Dir),
		"--exec-opt", "native.cgroupdriver=cgroupfs",
		"--default-cgroupns-mode", "private",
		"--bridge", "none",
		// Private addresses that home, office and cloud networks use least.
		"--default-address-pool", "base=10.213.0.0/16,size=24",
		"--ip-forward-no-drop",
		"--shutdown-timeout", "5",
	}
	return start(filepath.Join(options.Programs, "dockerd"), append(args, options.Flags...)...)
}

func pidFile(dir string) string { return filepath.Join(dir, "dockerd.pid") }

// start runs a program that ends when this process does. Waiting for it is the reaper's.
func start(program string, args ...string) (*os.Process, error) {
	return os.StartProcess(program, append([]string{program}, args...), &os.ProcAttr{
		Env: os.Environ(), Files: []*os.File{os.Stdin, os.Stdout, os.Stderr},
	})
}

// separateRun puts a file system of its own over /run, so that what dockerd, containerd and runc make there vanishes with the Engine
// and what the host's own daemons have there cannot be mistaken for theirs. Everything else of the host's /run stays reachable:
// dockerd may have to read a resolv.conf there.
func separateRun() error {
	old, err := os.Open("/run")
	if err != nil {
		return err
	}
	defer old.Close()
	entries, err := old.ReadDir(-1)
	if err != nil {
		return err
	}
	if err := mount.Mount("tmpfs", "/run", "tmpfs", "nosuid,nodev,mode=755"); err != nil {
		return err
	}
	for _, entry := range entries {
		source := fmt.Sprintf("/proc/self/fd/%d/%s", old.Fd(), entry.Name())
		target := filepath.Join("/run", entry.Name())
		switch {
		case slices.Contains([]string{"docker", "docker.sock", "docker.pid", "containerd", "runc"}, entry.Name()):
			continue
		case entry.Type() == fs.ModeSymlink:
			link, err := os.Readlink(source)
			if err == nil {
				err = os.Symlink(link, target)
			}
			if err != nil {
				return err
			}
			continue
		case entry.IsDir():
			err = os.Mkdir(target, 0o755)
		default:
			err = os.WriteFile(target, nil, 0o600)
		}
		if err != nil {
			return err
		}
		// An entry may vanish while this runs: it belongs to somebody else.
		if err := mount.Mount(source, target, "", "rbind"); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}
