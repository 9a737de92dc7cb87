package vm

import (
	"bufio"
	"context"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"

	"github.com/nodeimg/nodeimg/sources/packages"
	"github.com/nodeimg/nodeimg/test/internal/tools"
)

//go:embed guest
var guest embed.FS

// guestFiles are the files of the folder guest by their path in the machine, with their modes.
var guestFiles = map[string]struct {
	path string
	mode os.FileMode
}{
	"nodeimg-payload.service": {"etc/systemd/system/nodeimg-payload.service", 0o644},
	"nodeimg-payload.sh":      {"usr/local/sbin/nodeimg-payload", 0o755},
}

// kernels are the packages of a kernel for virtual machines.
var kernels = map[string]string{"debian": "linux-image-cloud-amd64", "ubuntu": "linux-image-virtual"}

// installed are the packages of the machine beside the kernel.
var installed = []string{
	"initramfs-tools", "systemd", "systemd-sysv", "udev", "dbus", "docker.io", "runc", "iptables", "kmod", "iproute2", "procps", "e2fsprogs",
}

// diskSize is the size of the machine's disk; only what is written takes space.
const diskSize = "16G"

// disk is a bootstrapped machine.
type disk struct{ root, kernel, initrd string }

// prepareDisk returns the machine's disk from the cache, or bootstraps it: about two minutes. It needs root.
func prepareDisk(ctx context.Context) (disk, error) {
	distro, codename, err := host()
	if err != nil {
		return disk{}, err
	}
	universe, err := packages.Distribution(distro, codename, "linux/"+runtime.GOARCH, nil)
	if err != nil {
		return disk{}, err
	}
	names := append([]string{kernels[distro]}, installed...)
	key, err := diskKey(codename, names)
	if err != nil {
		return disk{}, err
	}
	parent, err := tools.CacheDir("vm")
	if err != nil {
		return disk{}, err
	}
	dir := filepath.Join(parent, codename+"-"+key)
	made := disk{filepath.Join(dir, "root.ext4"), filepath.Join(dir, "vmlinuz"), filepath.Join(dir, "initrd.img")}
	unlock, err := tools.Lock(ctx, filepath.Join(parent, ".lock"))
	if err != nil {
		return disk{}, err
	}
	defer unlock()
	if _, err := os.Stat(dir); err == nil {
		return made, nil
	}
	staging, err := os.MkdirTemp(parent, ".staging-")
	if err != nil {
		return disk{}, err
	}
	defer os.RemoveAll(staging)
	tree := filepath.Join(staging, "tree")
	if err := bootstrap(ctx, tree, codename, names, universe.SourceList()); err != nil {
		return disk{}, err
	}
	if err := PackDisk(ctx, tree, filepath.Join(staging, "root.ext4")); err != nil {
		return disk{}, err
	}
	for link, name := range map[string]string{"vmlinuz": "vmlinuz", "initrd.img": "initrd.img"} {
		found, err := filepath.Glob(filepath.Join(tree, "boot", link+"-*"))
		if err != nil || len(found) != 1 {
			return disk{}, fmt.Errorf("looking for the machine's kernel: found %q", found)
		}
		if err := os.Rename(found[0], filepath.Join(staging, name)); err != nil {
			return disk{}, err
		}
	}
	if err := os.RemoveAll(tree); err != nil {
		return disk{}, err
	}
	return made, os.Rename(staging, dir)
}

// bootstrap makes the machine's root file system in tree.
func bootstrap(ctx context.Context, tree, codename string, names []string, sources string) error {
	cmd := exec.CommandContext(ctx, "mmdebstrap", "--quiet", "--variant=apt", "--include="+strings.Join(names, ","), codename, tree, "-")
	cmd.Stdin = strings.NewReader(sources)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("bootstrapping the machine: %w\n%s", err, out)
	}
	for name, file := range guestFiles {
		content, err := guest.ReadFile("guest/" + name)
		if err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(tree, file.path), content, file.mode); err != nil {
			return err
		}
	}
	wants := filepath.Join(tree, "etc/systemd/system/multi-user.target.wants")
	if err := os.MkdirAll(wants, 0o755); err != nil {
		return err
	}
	if err := os.Symlink("../nodeimg-payload.service", filepath.Join(wants, "nodeimg-payload.service")); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(tree, "etc/hostname"), []byte("emulated\n"), 0o644); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(tree, "etc/fstab"), []byte("/dev/disk/by-id/virtio-root / ext4 defaults 0 1\n"), 0o644)
}

// diskKey hashes what determines the machine, apart from the versions that the host's package sources serve.
func diskKey(codename string, names []string) (string, error) {
	hash := sha256.New()
	fmt.Fprintln(hash, codename, names, diskSize)
	for _, name := range []string{"nodeimg-payload.service", "nodeimg-payload.sh"} {
		content, err := guest.ReadFile("guest/" + name)
		if err != nil {
			return "", err
		}
		fmt.Fprintf(hash, "%s %v %d\n%s", name, guestFiles[name], len(content), content)
	}
	return hex.EncodeToString(hash.Sum(nil)[:8]), nil
}

// host reads the distribution and its codename from os-release(5).
func host() (distro, codename string, err error) {
	f, err := os.Open("/etc/os-release")
	if err != nil {
		return "", "", fmt.Errorf("finding this host's distribution: %w", err)
	}
	defer f.Close()
	for scanner := bufio.NewScanner(f); scanner.Scan(); {
		key, value, _ := strings.Cut(scanner.Text(), "=")
		switch value = strings.Trim(value, `"`); key {
		case "ID":
			distro = value
		case "VERSION_CODENAME":
			codename = value
		}
	}
	if kernels[distro] == "" || runtime.GOARCH != "amd64" {
		return "", "", fmt.Errorf("the emulated machine is made from the host's packages, on Debian or Ubuntu on amd64; this is %s on %s", distro, runtime.GOARCH)
	}
	return distro, codename, nil
}

// command runs a program; its output is in the error.
func command(ctx context.Context, name string, args ...string) error {
	cmd := exec.CommandContext(ctx, name, args...)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w\n%s", cmd, err, out)
	}
	return nil
}

// PackDisk makes a sparse disk image with an ext4 file system that holds the tree, with owners, devices and extended attributes.
func PackDisk(ctx context.Context, tree, file string) error {
	return command(ctx, "mke2fs", "-q", "-t", "ext4", "-d", tree, file, diskSize)
}
