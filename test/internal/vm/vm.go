package vm

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/nodeimg/nodeimg/test/internal/archive"
)

// Options say what runs in the machine.
type Options struct {
	// Script runs as root when the machine and its Docker Engine are up, with the folder of Files as working directory. It starts
	// with an interpreter line; its exit status is the result.
	Script []byte
	// Files lie beside the script, by name.
	Files map[string][]byte
	// Disks are files of the host, by name of at most 20 characters, that the machine sees as read-only block devices
	// /dev/disk/by-id/virtio-NAME: large archives need no copying so. What lies between a file's end and the next multiple of 512
	// bytes reads as zero.
	Disks map[string]string
	// Scratch are disk images of the host, by name as in Disks, that the machine may write to; the files themselves stay as they are.
	Scratch map[string]string
	// Output receives what the script writes, as it comes; nil drops it.
	Output io.Writer
	// MemoryMiB is the machine's memory; 0 means 8192.
	MemoryMiB int
}

// resultPrefix begins the last line of the serial line (guest/nodeimg-payload.sh).
const resultPrefix = "NODEIMG-RESULT: "

// Run boots a machine, runs the script in it and returns what that wrote, when the machine is off again. The error of a script that
// failed holds the end of its output; that of a machine that came to nothing the end of its console. When ctx ends, the machine is
// killed, and it never outlives this process. Emulation takes about ten times as long as the host itself.
func Run(ctx context.Context, options Options) (string, error) {
	machine, err := prepareDisk(ctx)
	if err != nil {
		return "", fmt.Errorf("preparing the emulated machine: %w", err)
	}
	dir, err := os.MkdirTemp("", "nodeimg-vm-")
	if err != nil {
		return "", fmt.Errorf("running the emulated machine: %w", err)
	}
	defer os.RemoveAll(dir)
	payload := filepath.Join(dir, "payload.tar")
	if err := writePayload(payload, options); err != nil {
		return "", fmt.Errorf("running the emulated machine: %w", err)
	}
	console := filepath.Join(dir, "console")
	memory := options.MemoryMiB
	if memory == 0 {
		memory = 8192
	}
	args := []string{
		// Not kvm: nested virtualisation hangs stock kernels on some hosts.
		"-accel", "tcg,thread=multi", "-cpu", "max", "-smp", "2", "-m", fmt.Sprint(memory),
		"-nodefaults", "-display", "none", "-monitor", "none", "-no-reboot",
		"-kernel", machine.kernel, "-initrd", machine.initrd, "-append", "root=/dev/disk/by-id/virtio-root rw console=ttyS0 panic=-1",
		"-serial", "file:" + console, "-serial", "stdio",
	}
	// What the machine writes goes to a temporary file that qemu has unlinked already.
	args = append(args, drive("root", machine.root, "snapshot=on,cache=unsafe")...)
	args = append(args, drive("payload", payload, "readonly=on")...)
	for _, name := range slices.Sorted(maps.Keys(options.Disks)) {
		args = append(args, drive(name, options.Disks[name], "readonly=on")...)
	}
	for _, name := range slices.Sorted(maps.Keys(options.Scratch)) {
		args = append(args, drive(name, options.Scratch[name], "snapshot=on")...)
	}
	var output bytes.Buffer
	cmd := exec.CommandContext(ctx, "qemu-system-x86_64", args...)
	cmd.Env = append(os.Environ(), "TMPDIR="+dir)
	cmd.Stdout = &output
	if options.Output != nil {
		cmd.Stdout = io.MultiWriter(&output, options.Output)
	}
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	cmd.WaitDelay = 5 * time.Second
	// The kernel sends the parent-death signal when the thread that forked ends, not the process.
	runtime.LockOSThread()
	err = cmd.Run()
	runtime.UnlockOSThread()

	log := strings.ReplaceAll(output.String(), "\r\n", "\n")
	if cause := context.Cause(ctx); cause != nil {
		return log, fmt.Errorf("running the emulated machine: %w\n%s", cause, lastLines(log))
	}
	if err != nil {
		return log, fmt.Errorf("running the emulated machine: %w\n%s", err, stderr.String())
	}
	at := strings.LastIndex(log, resultPrefix)
	if at < 0 {
		said, _ := os.ReadFile(console)
		return log, fmt.Errorf("running the emulated machine: it ended without a result\n%s\n%s", lastLines(log), lastLines(string(said)))
	}
	result, _, _ := strings.Cut(log[at+len(resultPrefix):], "\n")
	log = log[:at]
	if result != "ok" {
		return log, fmt.Errorf("running the script in the emulated machine: %w\n%s", errors.New(result), lastLines(log))
	}
	return log, nil
}

// drive are qemu's arguments for a block device that the machine finds by name.
func drive(name, path, mode string) []string {
	return []string{
		"-drive", fmt.Sprintf("file=%s,format=raw,if=none,id=%s,%s", strings.ReplaceAll(path, ",", ",,"), name, mode),
		"-device", fmt.Sprintf("virtio-blk-pci,drive=%s,serial=%s", name, name),
	}
}

// writePayload writes the script and its files as a tar that serves as a block device.
func writePayload(path string, options Options) error {
	files := maps.Clone(options.Files)
	if files == nil {
		files = map[string][]byte{}
	}
	files["run"] = options.Script
	var entries []archive.File
	for _, name := range slices.Sorted(maps.Keys(files)) {
		entry := archive.Program(name, files[name])
		if name != "run" && !bytes.HasPrefix(files[name], []byte("#!")) {
			entry.Header.Mode = 0o644
		}
		entries = append(entries, entry)
	}
	var payload bytes.Buffer
	if err := archive.Write(&payload, entries...); err != nil {
		return err
	}
	return os.WriteFile(path, payload.Bytes(), 0o600)
}

// lastLines is the end of a log, for an error.
func lastLines(log string) string {
	lines := strings.Split(strings.TrimSpace(log), "\n")
	return strings.Join(lines[max(0, len(lines)-40):], "\n")
}
