package doctor

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/nodeimg/nodeimg/internal/dockerengine"
)

func TestVerdicts(t *testing.T) {
	engine := dockerengine.Info{Version: "28.5.2", APIVersion: "1.51", OS: "linux", Runtimes: []string{"runc", "sysbox-runc"}, Hostname: "far"}
	with := func(change func(*dockerengine.Info)) dockerengine.Info {
		e := engine
		change(&e)
		return e
	}
	all := []string{"blkio", "cpu", "cpuacct", "cpuset", "devices", "freezer", "memory", "pids"}
	for _, test := range []struct {
		name string
		got  verdict
		want State
		// found and remedy are words in them.
		found, remedy string
	}{
		{"kernel of Debian 12", judgeKernel("6.1.0-18-amd64"), OK, "6.1.0-18-amd64", ""},
		{"kernel of four numbers", judgeKernel("6.6.87.2+"), OK, "6.6.87.2+", ""},
		{"oldest kernel", judgeKernel("5.4.0-216-generic"), OK, "5.4.0", ""},
		{"kernel that is too old", judgeKernel("4.19.0-27-amd64"), Failed, "4.19", "5.4"},
		{"kernel with a name", judgeKernel("frozen"), Unknown, "frozen", "5.4"},

		{"cgroup v2", judgeControlGroups(controlGroups{2, []string{"cpuset", "cpu", "io", "memory", "pids"}, []string{"cpu"}}), OK, "delegated: cpu", ""},
		{"cgroup v2 without cpuset", judgeControlGroups(controlGroups{2, []string{"cpu", "memory", "pids"}, nil}), Failed, "delegated: none", "delegate cpuset "},
		{"cgroup v1", judgeControlGroups(controlGroups{1, all, nil}), Warning, "version 1", "unified_cgroup_hierarchy"},
		{"cgroup v1 without memory", judgeControlGroups(controlGroups{1, []string{"cpu", "cpuacct", "cpuset", "devices", "freezer", "pids"}, nil}), Failed, "version 1", "mount memory "},

		{"capability", judgeSysResource(true, "         0          0 4294967295\n"), OK, "", ""},
		{"no capability", judgeSysResource(false, "         0          0 4294967295\n"), Warning, "not to be had", "--cap-add SYS_RESOURCE"},
		{"capability in a user namespace", judgeSysResource(true, "         0     100000      65536\n"), Warning, "user namespace", "initial"},

		{"user namespaces", judgeUserNamespaces(1000, nil), OK, "1000", ""},
		{"no user namespaces", judgeUserNamespaces(0, nil), Warning, "0", "user.max_user_namespaces"},
		{"user namespaces that cannot be made", judgeUserNamespaces(1000, errors.New("forbidden")), Warning, "forbidden", "AppArmor"},

		{"inotify", judgeInotify(512, 524288), OK, "512", ""},
		{"few instances", judgeInotify(128, 1<<20), Warning, "128", "sysctl -w fs.inotify.max_user_instances=512, and"},
		{"few watches", judgeInotify(1024, 8192), Warning, "8192", "sysctl -w fs.inotify.max_user_watches=524288, and"},
		{"room for nodes", verdict{OK, "", judgeCrowd(27, 101, 128)}, OK, "", ""},
		{"no room for nodes", verdict{Warning, "", judgeCrowd(27, 102, 128)}, Warning, "", "fs.inotify.max_user_instances=512"},
		{"no room for many nodes", verdict{Warning, "", judgeCrowd(700, 100, 512)}, Warning, "", "fs.inotify.max_user_instances=1600"},

		{"keys", judgeKeys(20000, 1000000, true), OK, "20000", ""},
		{"few keys without Sysbox", judgeKeys(200, 1000000, false), OK, "200", ""},
		{"few keys under Sysbox", judgeKeys(200, 1000000, true), Warning, "200", "kernel.keys.maxkeys=20000"},
		{"few keys of root", judgeKeys(20000, 200, false), Warning, "200", "kernel.keys.root_maxkeys=20000"},

		{"Engine", judgeEngine(engine, "unix:///run/docker.sock", true), OK, "28.5.2 at unix:///run/docker.sock", ""},
		{"Engine 20.10", judgeEngine(with(func(e *dockerengine.Info) { e.APIVersion = "1.41" }), "unix:///s", true), OK, "", ""},
		{"Engine 19.03", judgeEngine(with(func(e *dockerengine.Info) { e.APIVersion = "1.40" }), "unix:///s", true), Failed, "", "20.10"},
		{"Engine without a version", judgeEngine(with(func(e *dockerengine.Info) { e.APIVersion = "" }), "unix:///s", true), Unknown, "", "20.10"},
		{"Engine with other containers", judgeEngine(with(func(e *dockerengine.Info) { e.OS = "windows" }), "tcp://x:1", false), Failed, "windows", "Linux"},
		{"Engine elsewhere", judgeEngine(engine, "tcp://far:2376", false), Warning, "far", "run nodeimg there"},

		{"graph driver", judgeImageStore("overlay2", false), OK, "graph driver overlay2", ""},
		{"containerd's store", judgeImageStore("overlayfs", true), OK, "containerd, snapshotter overlayfs", ""},
		{"vfs", judgeImageStore("vfs", false), Warning, "vfs", "data-root"},
		{"native snapshotter", judgeImageStore("native", true), Warning, "native", "data-root"},

		{"room", judgeDisk(disk{"/x", 20 << 30, 50 << 30, 1 << 20, true}, "r"), OK, "/x: 20.0 of 50.0 GiB free", ""},
		{"little room", judgeDisk(disk{"/x", 5 << 30, 50 << 30, 1 << 20, true}, "r"), Warning, "5.0 of", "r"},
		{"no room", judgeDisk(disk{"/x", 0, 50 << 30, 1 << 20, true}, "r"), Failed, "0.0 of", "r"},
		{"few inodes", judgeDisk(disk{"/x", 20 << 30, 50 << 30, 99, true}, "r"), Warning, "99 inodes", "r"},
		{"a file system without inodes", judgeDisk(disk{"/x", 20 << 30, 50 << 30, 0, false}, "r"), OK, "", ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			v := test.got
			if v.state != test.want || !strings.Contains(v.found, test.found) || !strings.Contains(v.remedy, test.remedy) || (v.remedy == "") != (v.state == OK) {
				t.Errorf("got %+v, want state %s with %q and %q", v, test.want, test.found, test.remedy)
			}
		})
	}
}

func TestConntrackAmongTheModules(t *testing.T) {
	modules := t.TempDir()
	if v := judgeConntrack(modules); v.state != Warning || !strings.Contains(v.remedy, "modprobe") {
		t.Errorf("got %+v, want a warning", v)
	}
	text := "kernel/net/netfilter/nf_conntrack.ko.xz: kernel/lib/libcrc32c.ko.xz\n"
	if err := os.WriteFile(filepath.Join(modules, "modules.dep"), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if v := judgeConntrack(modules); v.state != OK {
		t.Errorf("got %+v, want ok", v)
	}
}

// TestFileSystemsThatCannot tries the mounts where the kernel refuses them: users of procfs cannot be mapped, and an overlay on an overlay has
// no upper folder.
func TestFileSystemsThatCannot(t *testing.T) {
	if v := checkFolders([]string{"/proc"}, idMappedOverlayOn, "remedy", Warning); v.state != Warning || !strings.Contains(v.found, "mapping the users") {
		t.Errorf("got %+v, want a warning that users cannot be mapped", v)
	}
	v := checkFolders([]string{t.TempDir()}, func(folder string) error {
		if err := overlayOn(folder); err != nil {
			t.Error(err)
		}
		// The overlay of the first attempt, which only this thread sees.
		return overlayOn(filepath.Join(scratch, "merged"))
	}, "remedy", Failed)
	if v.state != Failed || !strings.Contains(v.found, "lies on an overlayfs") {
		t.Errorf("got %+v, want a failure on an overlay", v)
	}
	if v := checkFolders(nil, overlayOn, "remedy", Failed); v.state != Unknown {
		t.Errorf("got %+v, want unknown without a folder", v)
	}
}
