package preload

import (
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// shift gives everything below dir to the users that a container with a user namespace has there, as Docker's userns-remap does.
func shift(t *testing.T, dir string, by int) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		out, err := exec.CommandContext(t.Context(), "stat", "-c", "%u %g %a", path).Output()
		if err != nil {
			return err
		}
		var uid, gid int
		var mode uint32
		if _, err := fmt.Sscanf(string(out), "%d %d %o", &uid, &gid, &mode); err != nil {
			return err
		}
		if err := os.Lchown(path, uid+by, gid+by); err != nil || entry.Type()&fs.ModeSymlink != 0 {
			return err
		}
		// A change of owner takes setuid away.
		return exec.CommandContext(t.Context(), "chmod", fmt.Sprintf("%o", mode), path).Run()
	})
	if err != nil {
		t.Fatal(err)
	}
}

// TestTreesInAUserNamespace boots a containerd in a user namespace and mounts an image's trees there.
func TestTreesInAUserNamespace(t *testing.T) {
	const first = 100000
	p, s := startRegistry(t), newSources(t)
	p.push(t, "one:1", layered(t, fileLayer(t, "etc", "os-release"), fileLayer(t, "one", "a")))
	locked := resolveAll(t, s, p, "one:1")
	dir, root := t.TempDir(), t.TempDir()
	layOut(t, s, locked, plant(t, s, locked, dir), dir)
	shift(t, dir, first)
	for _, path := range []string{root, filepath.Dir(root)} {
		if err := os.Chmod(path, 0o777); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chown(root, first, first); err != nil {
		t.Fatal(err)
	}
	// containerd's own folders go with the namespaces.
	script := `set -eu
mount -t tmpfs tmpfs /run
sh "$0"/boot-store.sh
mkdir /run/view
printf 'version = 3\ndisabled_plugins = ["io.containerd.cri.v1.runtime", "io.containerd.cri.v1.images", "io.containerd.grpc.v1.cri", "io.containerd.nri.v1.nri"]\n' >/run/config.toml
containerd --config /run/config.toml --root "$NODEIMG_CONTAINERD_ROOT" --state /run/containerd --address /run/containerd.sock >/run/log 2>&1 &
trap 'cat /run/log' EXIT
until ctr version >/dev/null 2>&1; do kill -0 $!; sleep 0.1; done
ctr images check
ctr images mount --rw "$1" /run/view
find /run/view -mindepth 1 -printf '%P %m %U:%G %s\n'
: >/run/view/etc/written
trap - EXIT
kill $!
wait $! || true
`
	// Nobody of the namespace may look into the folders of root.
	text, err := os.ReadFile(filepath.Join(scripts, "boot-store.sh"))
	if err != nil {
		t.Fatal(err)
	}
	writeFile(t, filepath.Join(dir, "boot-store.sh"), text)
	if err := os.Chmod(mustPrograms(t), 0o755); err != nil {
		t.Fatal(err)
	}
	command := exec.CommandContext(t.Context(), "sh", "-c", script, dir, locked[0].Reference)
	ids := []syscall.SysProcIDMap{{ContainerID: 0, HostID: first, Size: first}}
	command.Dir = dir
	command.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: syscall.CLONE_NEWUSER | syscall.CLONE_NEWNS, UidMappings: ids, GidMappings: ids, GidMappingsEnableSetgroups: true,
		Credential: &syscall.Credential{}, Pdeathsig: syscall.SIGKILL,
	}
	command.Env = append(bootEnvironment(dir, root), "PATH="+mustPrograms(t)+":"+os.Getenv("PATH"), "CONTAINERD_ADDRESS=/run/containerd.sock", "CONTAINERD_NAMESPACE=k8s.io")
	out, err := command.CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	for _, want := range []string{"etc/os-release 4711 1234:70000 30000\n", "one/a 4711 1234:70000 3000\n", "etc 1775 1234:70000 "} {
		if !strings.Contains(string(out), want) {
			t.Errorf("in the user namespace there is no %q:\n%s", want, out)
		}
	}
	if line := lineOf(string(out), locked[0].Reference); !strings.Contains(line, " complete (") || !strings.HasSuffix(strings.TrimSpace(line), "true") {
		t.Errorf("the image is not complete and unpacked: %q", line)
	}
}
