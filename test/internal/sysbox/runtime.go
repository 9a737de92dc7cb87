package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// runtimeMain carries out one command line of sysbox-runc.
func runtimeMain(args []string) (int, error) {
	runc, err := exec.LookPath("runc")
	if err != nil {
		return 1, err
	}
	logPath, name, bundle, id := "", "", "", args[len(args)-1]
	for i, arg := range args {
		switch flag, value, _ := strings.Cut(arg, "="); {
		case flag == "--log":
			logPath = value
		case flag == "--bundle":
			bundle = value
		case arg == "--keep":
			return 1, errors.New("flag provided but not defined: -keep")
		case name == "" && !strings.HasPrefix(arg, "-"):
			name = args[i]
		}
	}
	switch name {
	case "run":
		status, err := runContainer(runc, args, bundle, id)
		if err != nil {
			logError(logPath, err)
		}
		return status, err
	case "delete":
		out, err := exec.Command(runc, args...).CombinedOutput()
		if err != nil {
			err = fmt.Errorf("%w: %s", err, strings.TrimSpace(string(out)))
			logError(logPath, err)
			return 1, err
		}
		_, err = ask(message{Verb: "unregister", ID: id})
		if err != nil {
			logError(logPath, err)
			return 1, err
		}
		return 0, nil
	}
	return 1, syscall.Exec(runc, append([]string{runc}, args...), os.Environ())
}

// logError writes to the log as runc does with --log-format json.
func logError(path string, err error) {
	line, _ := json.Marshal(map[string]string{"level": "error", "msg": err.Error()})
	if f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644); err == nil {
		_, _ = f.Write(append(line, '\n'))
		_ = f.Close()
	}
}

// runContainer runs a container to its end and unregisters it.
func runContainer(runc string, args []string, bundle, id string) (status int, err error) {
	text, err := os.ReadFile(filepath.Join(bundle, "config.json"))
	if err != nil {
		return 1, err
	}
	var spec map[string]any
	if err := json.Unmarshal(text, &spec); err != nil {
		return 1, err
	}
	linux := spec["linux"].(map[string]any)
	namespaces, _ := linux["namespaces"].([]any)
	for _, want := range []string{"pid", "ipc", "uts", "mount", "network"} {
		if !hasNamespace(namespaces, want) {
			return 1, fmt.Errorf("sysbox containers can't share namespaces [%s] with the host (because they use the linux user-namespace for isolation)", want)
		}
	}
	root := spec["root"].(map[string]any)
	rootfs := root["path"].(string)
	answer, err := ask(message{Verb: "register", ID: id, PID: os.Getpid(), Rootfs: rootfs})
	if err != nil {
		return 1, fmt.Errorf("failed to register with sysbox-mgr: %w", err)
	}
	defer func() {
		if _, unregister := ask(message{Verb: "unregister", ID: id}); unregister != nil {
			// The real one only logs this.
			fmt.Fprintln(os.Stderr, unregister)
		}
	}()

	// Mounts of this thread, and of what it starts, are seen by nobody else.
	runtime.LockOSThread()
	if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
		return 1, err
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return 1, err
	}
	home := filepath.Join(place, "data", id)
	mapped, err := mapRootfs(rootfs, home)
	if err != nil {
		return 1, fmt.Errorf("mapping %s: %w", rootfs, err)
	}
	defer unix.Unmount(mapped, unix.MNT_DETACH)

	root["path"] = mapped
	linux["namespaces"] = append(namespaces, map[string]string{"type": "user"})
	mapping := []map[string]int{{"containerID": 0, "hostID": firstID, "size": idCount}}
	linux["uidMappings"], linux["gidMappings"] = mapping, mapping
	mounts, _ := spec["mounts"].([]any)
	for _, volume := range answer.Volumes {
		mounts = append(mounts, map[string]any{"destination": volume.Target, "source": volume.Source, "type": "bind", "options": []any{"rbind", "rw"}})
	}
	for _, m := range mounts {
		keepLocked(m.(map[string]any))
	}
	spec["mounts"] = mounts
	if text, err = json.Marshal(spec); err != nil {
		return 1, err
	}
	if err := os.WriteFile(filepath.Join(home, "config.json"), text, 0o644); err != nil {
		return 1, err
	}
	line := make([]string, len(args))
	for i, arg := range args {
		line[i] = strings.Replace(arg, "--bundle="+bundle, "--bundle="+home, 1)
	}
	return pass(exec.Command(runc, line...))
}

func hasNamespace(namespaces []any, kind string) bool {
	for _, n := range namespaces {
		if m, ok := n.(map[string]any); ok && m["type"] == kind {
			return true
		}
	}
	return false
}

// keepLocked adds the options of a bind mount that a user namespace may not drop (mount_namespaces(7)). The real sysbox-runc mounts from
// outside of the namespace, and newer versions of runc do this themselves.
func keepLocked(m map[string]any) {
	source, _ := m["source"].(string)
	options, _ := m["options"].([]any)
	var st unix.Statfs_t
	if !slices.Contains(options, any("rbind")) && !slices.Contains(options, any("bind")) || unix.Statfs(source, &st) != nil {
		return
	}
	for flag, option := range map[int64]string{unix.ST_NOSUID: "nosuid", unix.ST_NODEV: "nodev", unix.ST_NOEXEC: "noexec", unix.ST_RDONLY: "ro"} {
		if st.Flags&flag != 0 {
			options = append(options, option)
		}
	}
	m["options"] = options
}

// pass runs cmd in the place of this process and returns its exit status.
func pass(cmd *exec.Cmd) (int, error) {
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	signals := make(chan os.Signal, 8)
	signal.Notify(signals, unix.SIGTERM, unix.SIGINT, unix.SIGHUP, unix.SIGUSR1, unix.SIGWINCH)
	if err := cmd.Start(); err != nil {
		return 1, err
	}
	go func() {
		for s := range signals {
			_ = cmd.Process.Signal(s)
		}
	}()
	var exit *exec.ExitError
	if err := cmd.Wait(); err != nil && !errors.As(err, &exit) {
		return 1, err
	}
	return cmd.ProcessState.ExitCode(), nil
}
