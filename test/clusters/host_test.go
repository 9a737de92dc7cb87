package clusters

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/moby/sys/mount"
	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"

	"github.com/nodeimg/nodeimg/test/internal/command"
	"github.com/nodeimg/nodeimg/test/internal/engine"
)

// rounds is how often TestHostAsBefore makes a cluster and removes it, lanes how many it makes at a time.
const (
	rounds = 20
	lanes  = 4
)

// TestHostAsBefore makes and removes clusters again and again, and then fills the Engine's disk while it makes one. The host stays as it
// was. The Engine has its own network namespace, so that nobody else changes what is compared.
func TestHostAsBefore(t *testing.T) {
	disk := t.TempDir()
	var (
		running *engine.Engine
		l       launcher
	)
	if err := mount.Mount("tmpfs", disk, "tmpfs", "size=8g"); err != nil {
		t.Fatal(err)
	}
	// It runs after the Engine has ended.
	t.Cleanup(func() {
		if err := mount.Unmount(disk); err != nil {
			t.Error(err)
		}
		if running == nil {
			return
		}
		mounts, err := mountinfo.GetMounts(func(m *mountinfo.Info) (skip, stop bool) {
			return !strings.HasPrefix(m.Mountpoint, disk) && !strings.HasPrefix(m.Mountpoint, engineDir(running)), false
		})
		if err != nil || len(mounts) > 0 {
			t.Errorf("the host still has the mounts %q (%v)", mountpoints(mounts), err)
		}
	})
	running, l = ownEngine(t, engine.Options{Flags: []string{"--data-root", disk}})
	buildClusterImage(t.Context(), t, l.host)
	reached := command.Stopwatch(t)
	round := func(l launcher, name string) {
		// Nothing of what fails here ends the test: the other lanes go on.
		for _, args := range [][]string{{"up", clusterImage, "--privileged"}, {"down"}} {
			if status, _, stderr := l.run(append(args, "--name", name)...); status != 0 {
				t.Errorf("nodeimg %s: exit status %d\n%s", args[0], status, stderr)
			}
		}
	}
	empty := footprint(t, running)
	// The first time the Engine makes what it then keeps. The rest of it goes a moment after down has ended.
	round(l, "round-0")
	l.succeeds(func(context.Context) error { return transient(empty, footprint(t, running)) })
	reached("first round")
	before := footprint(t, running)
	next := make(chan string, rounds)
	for i := range rounds {
		next <- fmt.Sprintf("round-%d", 1+i)
	}
	close(next)
	var group sync.WaitGroup
	for lane := range lanes {
		own := l
		own.kubeconfig = filepath.Join(t.TempDir(), strconv.Itoa(lane))
		group.Go(func() {
			for name := range next {
				round(own, name)
			}
		})
	}
	group.Wait()
	reached(fmt.Sprintf("%d rounds", rounds))
	l.settles(running, before)
	diskFull(l, running, disk, before)
	reached("disk full")
}

// diskFull makes clusters when the disk has next to no space, and when it fills on the way.
func diskFull(l launcher, running *engine.Engine, disk string, before map[string][]string) {
	l.t.Helper()
	var stat unix.Statfs_t
	if err := unix.Statfs(disk, &stat); err != nil {
		l.t.Fatal(err)
	}
	used := (int64(stat.Blocks) - int64(stat.Bfree)) * stat.Bsize
	for _, free := range []int64{1 << 20, 24 << 20} {
		if err := mount.Mount("tmpfs", disk, "tmpfs", fmt.Sprintf("remount,size=%d", used+free)); err != nil {
			l.t.Fatal(err)
		}
		status, _, stderr := l.run("up", clusterImage, "--name", "full", "--privileged", "--wait", "40s")
		if status != 1 || !strings.Contains(stderr, "no space") {
			l.t.Errorf("with %d bytes left: exit status %d, want 1 and the reason in\n%s", free, status, stderr)
		}
		l.settles(running, before)
	}
	if err := mount.Mount("tmpfs", disk, "tmpfs", "remount,size=8g"); err != nil {
		l.t.Fatal(err)
	}
}

// settles waits until the Engine's footprint is what it was: the kernel takes apart some things after they were given back.
func (l launcher) settles(running *engine.Engine, before map[string][]string) {
	l.t.Helper()
	ctx, cancel := context.WithTimeout(l.t.Context(), wait)
	defer cancel()
	for {
		diff := cmp.Diff(before, footprint(l.t, running))
		if diff == "" {
			return
		}
		select {
		case <-ctx.Done():
			l.t.Errorf("what the clusters have left (-before +after):\n%s", diff)
			return
		case <-time.After(200 * time.Millisecond):
		}
	}
}

// ofContainer is in the names of links, mounts and cgroups that last as long as a container or its network.
var ofContainer = regexp.MustCompile(`\bveth|[0-9a-f]{12}`)

// transient tells what an Engine has now, had not before its first cluster, and will not have for long.
func transient(before, now map[string][]string) (err error) {
	for kind, lines := range now {
		added := slices.Clone(lines)
		for _, line := range before[kind] {
			if i := slices.Index(added, line); i >= 0 {
				added = slices.Delete(added, i, i+1)
			}
		}
		for _, line := range added {
			if kind == "processes" || ofContainer.MatchString(line) {
				err = errors.Join(err, fmt.Errorf("%s: %s", kind, line))
			}
		}
	}
	return err
}

// footprint is everything that clusters can leave on the host of an Engine with a network namespace of its own.
func footprint(t *testing.T, running *engine.Engine) map[string][]string {
	t.Helper()
	pid, err := running.PID()
	if err != nil {
		t.Fatal(err)
	}
	found := map[string][]string{}
	add := func(kind string, lines ...string) {
		slices.Sort(lines)
		found[kind] = lines
	}
	text, err := engineHas(t.Context(), running.Host())
	if err != nil {
		t.Fatal(err)
	}
	add("containers, networks, volumes", strings.Fields(text)...)
	for kind, command := range map[string][]string{
		"links": {"ip", "-o", "link"}, "addresses": {"ip", "-o", "address"}, "routes": {"ip", "route", "show", "table", "all"},
		"rules": {"iptables-save"}, "rules of IPv6": {"ip6tables-save"},
	} {
		out, err := exec.CommandContext(t.Context(), "nsenter", append([]string{"--net", "--target", strconv.Itoa(pid), "--"}, command...)...).Output()
		if err != nil {
			t.Fatalf("%s: %v", command, err)
		}
		var lines []string
		for line := range strings.Lines(string(out)) {
			if line, _, _ = strings.Cut(strings.TrimSpace(line), " ["); !strings.HasPrefix(line, "#") {
				lines = append(lines, line)
			}
		}
		add(kind, lines...)
	}
	f, err := os.Open(fmt.Sprintf("/proc/%d/mountinfo", pid))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	mounts, err := mountinfo.GetMountsFromReader(f, nil)
	if err != nil {
		t.Fatal(err)
	}
	add("mounts", mountpoints(mounts)...)
	add("cgroups", cgroups(t, filepath.Base(engineDir(running)))...)
	add("processes", processes(t, pid)...)
	return found
}

// engineDir is where the Engine keeps its state; its name is in those of its cgroups.
func engineDir(running *engine.Engine) string {
	return filepath.Dir(strings.TrimPrefix(running.Host(), "unix://"))
}

func mountpoints(mounts []*mountinfo.Info) []string {
	var points []string
	for _, m := range mounts {
		points = append(points, m.FSType+" "+m.Mountpoint)
	}
	return points
}

// cgroups are those of the Engine with the id, in all hierarchies.
func cgroups(t *testing.T, id string) []string {
	t.Helper()
	var found []string
	if err := filepath.WalkDir("/sys/fs/cgroup", func(path string, entry fs.DirEntry, err error) error {
		// Others come and go.
		if err != nil || !entry.IsDir() {
			return nil
		}
		if strings.Contains(path, id) {
			found = append(found, path)
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	return found
}

// processes are the names of those that descend from the process.
func processes(t *testing.T, pid int) []string {
	t.Helper()
	var found []string
	lists, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
	if err != nil {
		t.Fatal(err)
	}
	for _, list := range lists {
		// A process that has ended has no children.
		text, _ := os.ReadFile(list)
		for _, child := range strings.Fields(string(text)) {
			number, err := strconv.Atoi(child)
			if err != nil {
				t.Fatal(err)
			}
			name, _ := os.ReadFile("/proc/" + child + "/comm")
			found = append(append(found, string(bytes.TrimSpace(name))), processes(t, number)...)
		}
	}
	return found
}
