package boot

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"testing"

	"github.com/nodeimg/nodeimg/test/internal/node"
)

// TestBoot takes two node images through what their users do with them.
func TestBoot(t *testing.T) {
	m := openMachine(t)
	program := programLayer(t)
	keeps := m.push(t, "keeps:v1", program, fileLayer(t, "keeps"), fileLayer(t, "common"))
	goes := m.push(t, "goes:v1", program, fileLayer(t, "goes"))
	changes := m.push(t, "changes:v1", program, fileLayer(t, "before"))
	first := m.build(t, keeps, goes, changes)
	m.push(t, "changes:v1", program, fileLayer(t, "after"))
	comes := m.push(t, "comes:v1", program, fileLayer(t, "comes"))
	second := m.build(t, keeps, changes, comes)
	committed := func(t *testing.T, s *started) string {
		t.Helper()
		reference := "nodeimg-boot/committed:" + suffix()
		if err := s.Commit(t.Context(), reference); err != nil {
			t.Fatal(err)
		}
		s.remove(t)
		m.forget(t, reference)
		return reference
	}

	t.Run("/var on an anonymous volume", func(t *testing.T) {
		n := m.booted(t, node.Options{Image: first})
		before := n.stamp(t)
		var kilobytes int
		out := n.must(t, "du", "-sk", "/var/lib/containerd")
		if _, err := fmt.Sscan(out, &kilobytes); err != nil || kilobytes < 50 || kilobytes >= 2048 {
			t.Errorf("right after the boot du says %q", out)
		}
		n.known(t, keeps, goes, changes)
		if check := n.must(t, "ctr", "-n", "k8s.io", "images", "check"); strings.Count(check, "true") != strings.Count(check, "\n")-1 {
			t.Errorf("not all images are unpacked:\n%s", check)
		}
		n.sees(t, keeps, "keeps", "common")
		n.must(t, "crictl", "rmi", goes)
		n.known(t, keeps, changes)
		if err := n.Restart(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := n.WaitBooted(t.Context(), limit); err != nil {
			t.Fatal(err)
		}
		n.known(t, keeps, changes)
		n.sees(t, keeps, "keeps", "common")
		n.sees(t, changes, "before")
		if after := n.stamp(t); after != before {
			t.Error("something below /usr/lib/nodeimg has changed")
		}
		smallVar(t, n)
		image := committed(t, n)
		// What was removed was noted on the volume, which a commit leaves out.
		n = m.booted(t, node.Options{Image: image, PlainVar: true, Volumes: map[string]string{"/var/lib/containerd": ""}})
		n.known(t, keeps, goes, changes)
		n.sees(t, goes, "goes")
	})

	t.Run("without a volume", func(t *testing.T) {
		n := m.booted(t, node.Options{Image: first, PlainVar: true})
		n.known(t, keeps, goes, changes)
		n.sees(t, keeps, "keeps", "common")
		n.must(t, "crictl", "rmi", goes)
		image := committed(t, n)
		// The commit holds containerd's state; Docker copies it into the new volume.
		n = m.booted(t, node.Options{Image: image})
		n.known(t, keeps, changes)
		n.sees(t, keeps, "keeps", "common")
	})

	t.Run("read-only root", func(t *testing.T) {
		// Docker mounts what its resolver needs read-only as well, and it has one on networks that somebody makes.
		network := "nodeimg-boot-" + suffix()
		remove, err := m.docker.Network(t.Context(), network, true)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := remove(context.WithoutCancel(t.Context())); err != nil {
				t.Error(err)
			}
		})
		n := m.booted(t, node.Options{Image: first, Network: network, ReadOnly: true, Volumes: map[string]string{"/etc": ""}})
		if resolver := n.must(t, "cat", "/etc/resolv.conf"); !strings.Contains(resolver, "nameserver ") || strings.Contains(resolver, "nameserver 127.0.0.11") {
			t.Errorf("pods cannot reach the node's resolver:\n%s", resolver)
		}
		if out, err := n.Exec(t.Context(), "touch", "/usr/lib/nodeimg/written"); err == nil {
			t.Errorf("the root can be written to: %s", out)
		}
		n.known(t, keeps, goes, changes)
		n.sees(t, keeps, "keeps", "common")
	})

	t.Run("pod network", func(t *testing.T) {
		// The image's own choice is none.
		for cni, want := range map[string]string{"": "false", "auto": "false", "bridge": "true"} {
			n := m.booted(t, node.Options{Image: first, Env: []string{"NODEIMG_CNI=" + cni}})
			ready := n.must(t, "crictl", "info", "-o", "go-template", "--template", `{{range .status.conditions}}{{if eq .type "NetworkReady"}}{{.status}}{{end}}{{end}}`)
			if strings.TrimSpace(ready) != want {
				t.Errorf("NODEIMG_CNI=%s: the runtime's network is ready: %q, want %s", cni, ready, want)
			}
			if cni == "bridge" {
				waitsForRange(t, n)
			}
			n.remove(t)
		}
	})

	t.Run("volume of another node image", func(t *testing.T) {
		volume := "nodeimg-boot-" + suffix()
		t.Cleanup(func() {
			if err := m.docker.RemoveVolume(context.WithoutCancel(t.Context()), volume); err != nil {
				t.Error(err)
			}
		})
		options := node.Options{Image: first, PlainVar: true, Volumes: map[string]string{"/var": volume}}
		n := m.booted(t, options)
		n.sees(t, goes, "goes")
		n.remove(t)
		options.Image = second
		n = m.booted(t, options)
		n.known(t, keeps, changes, comes)
		n.sees(t, keeps, "keeps", "common")
		n.sees(t, changes, "after")
		n.sees(t, comes, "comes")
		if log := n.must(t, "journalctl", "--no-pager", "-o", "cat", "-u", "nodeimg-register"); !strings.Contains(log, goes) || !strings.Contains(log, "registered "+comes) {
			t.Errorf("the journal does not say what became of the images:\n%s", log)
		}
	})
}

// smallVar holds that the journal takes the disk in small steps, and that dpkg works with its lists outside of /var.
func smallVar(t *testing.T, n *started) {
	t.Helper()
	files := strings.Fields(n.must(t, "find", "/var/log/journal", "-name", "*.journal", "-printf", "%s\n"))
	for _, size := range files {
		if bytes, err := strconv.Atoi(size); err != nil || bytes > 1<<20 {
			t.Errorf("a file of the journal has %s bytes", size)
		}
	}
	if len(files) == 0 {
		t.Error("the node keeps no journal")
	}
	if lists := n.must(t, "find", "/var/lib/dpkg", "-name", "*.list"); lists != "" {
		t.Errorf("Docker copies the lists of dpkg into each volume on /var:\n%s", lists)
	}
	for _, c := range []struct{ command, want string }{
		{"dpkg --search /bin/bash", "bash: /bin/bash"},
		{"dpkg-query --list bash | tail -n 1", "ii  bash"},
		{`mkdir -p /tmp/small/DEBIAN /tmp/small/opt
			echo here >/tmp/small/opt/small
			printf 'Package: small\nVersion: 1\nArchitecture: all\nMaintainer: nobody\nDescription: small\n' >/tmp/small/DEBIAN/control
			dpkg-deb --build /tmp/small /tmp/small.deb && dpkg --install /tmp/small.deb && dpkg --search /opt/small`, "small: /opt/small"},
		{"dpkg --purge small && ! dpkg --listfiles small && ls /opt", "cni"},
		{"dpkg --audit && echo sound", "sound"},
	} {
		if out := n.must(t, "sh", "-ec", c.command); !strings.Contains(out, c.want) {
			t.Errorf("%s says %q, want %q", c.command, out, c.want)
		}
	}
}

// waitsForRange holds that a pod waits until the node has its part of the pod subnet, and then has an address of it.
func waitsForRange(t *testing.T, n *started) {
	t.Helper()
	const pod = `{"metadata": {"name": "early", "namespace": "default", "uid": "early"}, "log_directory": "/tmp", "linux": {"cgroup_parent": "system.slice"}}`
	n.must(t, "sh", "-c", `echo '`+pod+`' >/tmp/early.json && crictl --timeout 5m runp /tmp/early.json >/tmp/early 2>&1 &`)
	if _, err := n.WaitFor(t.Context(), limit, func(string) bool { return true }, "pgrep", "-f", "nodeimg-ipam"); err != nil {
		t.Fatal(err)
	}
	n.must(t, "sh", "-c", `cat >/run/nodeimg/ipam.new <<-'IPAM'
		{"cniVersion": "1.0.0", "name": "nodeimg", "ipam": {"type": "host-local", "dataDir": "/run/nodeimg/addresses", "ranges": [[{"subnet": "10.7.7.0/24"}]]}}
	IPAM
	mv /run/nodeimg/ipam.new /run/nodeimg/ipam.json`)
	address := func(out string) bool { return strings.HasPrefix(out, "10.7.7.") }
	if out, err := n.WaitFor(t.Context(), limit, address, "sh", "-c", `crictl inspectp -o go-template --template '{{.status.network.ip}}' "$(cat /tmp/early)"`); err != nil {
		t.Errorf("%v: %s", err, out)
	}
}
