package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"sync"

	"golang.org/x/sys/unix"
)

// message is what the runtime and the daemon say to each other, one each per connection.
type message struct {
	Verb    string
	ID      string
	PID     int
	Rootfs  string
	Volumes []volume
	Error   string
}

// volume is a folder of the daemon that is mounted in a container.
type volume struct {
	Source, Target string
}

// covered are the folders that get volumes.
var covered = []string{"/var/lib/docker", "/var/lib/containerd/io.containerd.snapshotter.v1.overlayfs"}

// container is what the daemon knows of one.
type container struct {
	rootfs  string
	overlay *overlay
	volumes []volume
}

func socketPath(daemon string) string { return filepath.Join(place, "run", daemon+".sock") }

// ask sends the daemon a message and returns its answer.
func ask(m message) (message, error) {
	conn, err := net.Dial("unix", socketPath("sysmgr"))
	if err != nil {
		return message{}, err
	}
	defer conn.Close()
	if err := json.NewEncoder(conn).Encode(m); err != nil {
		return message{}, err
	}
	var answer message
	if err := json.NewDecoder(conn).Decode(&answer); err != nil {
		return message{}, fmt.Errorf("sysbox-mgr does not answer: %w", err)
	}
	if answer.Error != "" {
		return message{}, errors.New(answer.Error)
	}
	return answer, nil
}

// daemon is sysbox-mgr.
type daemon struct {
	mu         sync.Mutex
	containers map[string]*container
	log        io.Writer
	// broken registers nothing.
	broken bool
}

// serve is the daemon until SIGTERM.
func serve(broken bool) error {
	log, err := os.OpenFile(filepath.Join(place, "log", "sysbox-mgr.log"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
	if err != nil {
		return err
	}
	d := &daemon{containers: map[string]*container{}, log: log, broken: broken}
	sysfs, err := net.Listen("unix", socketPath("sysfs"))
	if err != nil {
		return err
	}
	sysmgr, err := net.Listen("unix", socketPath("sysmgr"))
	if err != nil {
		return err
	}
	go accept(sysfs, func(net.Conn) {})
	go accept(sysmgr, d.answer)
	fmt.Fprintln(d.log, "Ready ...")
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, unix.SIGTERM)
	<-stop
	return nil
}

func accept(l net.Listener, each func(net.Conn)) {
	for {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		go func() {
			defer conn.Close()
			each(conn)
		}()
	}
}

func (d *daemon) answer(conn net.Conn) {
	var m, answer message
	if err := json.NewDecoder(conn).Decode(&m); err != nil {
		return
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	var err error
	switch m.Verb {
	case "register":
		answer.Volumes, err = d.register(m)
	case "unregister":
		if err = d.unregister(m.ID); err == nil {
			err = os.RemoveAll(filepath.Join(place, "data", m.ID))
		}
	}
	if err != nil {
		answer.Error = err.Error()
		fmt.Fprintf(d.log, "%s %s failed: %v\n", m.Verb, m.ID, err)
	} else {
		fmt.Fprintf(d.log, "%s %s\n", m.Verb, m.ID)
	}
	_ = json.NewEncoder(conn).Encode(answer)
}

func (d *daemon) register(m message) ([]volume, error) {
	if d.broken {
		for i := range 30 {
			fmt.Fprintf(d.log, "line %d of what sysbox-mgr suffers\n", i+1)
		}
		return nil, errors.New("no subordinate ids are left")
	}
	if d.containers[m.ID] != nil {
		return nil, fmt.Errorf("redundant container registration for container %s", m.ID)
	}
	self, err := os.Stat("/proc/self/exe")
	if err != nil {
		return nil, err
	}
	// sysbox-runc and this daemon are the same file, so another one means that the id is of another process namespace.
	if caller, err := os.Stat(fmt.Sprintf("/proc/%d/exe", m.PID)); err != nil || !os.SameFile(self, caller) {
		return nil, fmt.Errorf("process %d is not of container %s", m.PID, m.ID)
	}
	c := &container{rootfs: m.Rootfs}
	o, err := overlayAt(m.Rootfs)
	if err != nil {
		return nil, err
	}
	c.overlay = o
	home := filepath.Join(place, "data", m.ID)
	if err := os.Mkdir(home, 0o755); err != nil {
		return nil, err
	}
	for i, target := range covered {
		v := volume{Source: filepath.Join(home, fmt.Sprintf("volume%d", i)), Target: target}
		if err := copyTree(filepath.Join(m.Rootfs, target), v.Source, firstID); err != nil {
			return nil, err
		}
		c.volumes = append(c.volumes, v)
	}
	d.containers[m.ID] = c
	return c.volumes, nil
}

func (d *daemon) unregister(id string) error {
	c := d.containers[id]
	if c == nil {
		return fmt.Errorf("can't unregister container %s; not found in container table", id)
	}
	delete(d.containers, id)
	home := filepath.Join(place, "data", id)
	rootfs := c.rootfs
	if c.overlay != nil {
		if err := shift(c.overlay.upper, -firstID); err != nil {
			return err
		}
		// The mount at rootfs has not noticed what came into its upper layer through another mount.
		rootfs = filepath.Join(home, "out")
		if err := c.overlay.mount(rootfs); err != nil {
			return err
		}
		defer unix.Unmount(rootfs, unix.MNT_DETACH)
	}
	for _, v := range c.volumes {
		if err := copyTree(v.Source, filepath.Join(rootfs, v.Target), -firstID); err != nil {
			fmt.Fprintf(d.log, "sync-out for container %s failed: %v\n", id, err)
		}
	}
	return nil
}

// copyTree copies folders, files and symbolic links, with their modes and with their owners moved by offset, and nothing else. Without
// from it makes an empty folder.
func copyTree(from, to string, offset int) error {
	if _, err := os.Lstat(from); errors.Is(err, fs.ErrNotExist) {
		if err := os.MkdirAll(to, 0o700); err != nil {
			return err
		}
		return os.Lchown(to, max(offset, 0), max(offset, 0))
	}
	return filepath.WalkDir(from, func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		relative, err := filepath.Rel(from, path)
		if err != nil {
			return err
		}
		target := filepath.Join(to, relative)
		var st unix.Stat_t
		if err := unix.Lstat(path, &st); err != nil {
			return err
		}
		switch {
		case e.IsDir():
			err = os.MkdirAll(target, 0o700)
		case e.Type().IsRegular():
			err = copyFile(path, target)
		case e.Type() == fs.ModeSymlink:
			var link string
			if link, err = os.Readlink(path); err == nil {
				err = os.Symlink(link, target)
			}
		default:
			return nil
		}
		if err != nil {
			return err
		}
		if err := os.Lchown(target, int(st.Uid)+offset, int(st.Gid)+offset); err != nil || e.Type() == fs.ModeSymlink {
			return err
		}
		return unix.Chmod(target, st.Mode&0o7777)
	})
}

func copyFile(from, to string) error {
	b, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	return os.WriteFile(to, b, 0o600)
}
