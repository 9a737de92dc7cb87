package conformance

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sync/errgroup"

	"github.com/nodeimg/nodeimg/test/conformance/tree"
)

// expected is what the reference says about an image.
type expected struct {
	tree map[string]tree.Entry
	// refusal is why the overlayfs snapshotter does not unpack the image; then tree is the native snapshotter's, or nil.
	refusal string
}

// references are what the real containerd makes of every row.
type references struct {
	// host is the registry that has the rows.
	host   string
	daemon *daemon
	rows   map[string]expected
	// options hold when it was unpacked.
	options tree.Options
}

// known makes the registry and the references once for all tests.
var known = sync.OnceValues(func() (*references, error) {
	ctx := context.Background()
	host, _, err := serve(ctx, table)
	if err != nil {
		return nil, err
	}
	d, err := startDaemon(ctx, filepath.Join(work, "reference"))
	if err != nil {
		return nil, err
	}
	stopDaemon = d.stop
	r := &references{host: host, daemon: d, rows: map[string]expected{}}
	r.options.UnpackedFrom = time.Now()
	if err := d.unpack(ctx, host, r.rows); err != nil {
		return nil, fmt.Errorf("%w\n%s", err, d.said())
	}
	r.options.UnpackedUntil = time.Now()
	return r, nil
})

// want is what the row's image with another seed looks like.
func (r *references) want(name string, s seeds) (expected, error) {
	content, err := s.content()
	if err != nil {
		return expected{}, err
	}
	e := r.rows[name]
	if e.tree != nil {
		e.tree = maps.Clone(e.tree)
		if file, ok := e.tree["/seed"]; ok {
			file.Digest = digest.FromString(content).Encoded()
			e.tree["/seed"] = file
		}
	}
	return e, nil
}

func mustKnow(t *testing.T) *references {
	t.Helper()
	start := time.Now()
	r, err := known()
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("references: %.1f s", time.Since(start).Seconds())
	return r
}

// daemon is a containerd outside of nodes.
type daemon struct {
	dir, socket string
	command     *exec.Cmd
	log         bytes.Buffer
}

// startDaemon starts containerd with its state in dir, which must not be on overlayfs.
func startDaemon(ctx context.Context, dir string) (*daemon, error) {
	d := &daemon{dir: dir, socket: filepath.Join(dir, "sock")}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	config := filepath.Join(dir, "config.toml")
	if err := os.WriteFile(config, []byte(`version = 3
disabled_plugins = ["io.containerd.cri.v1.images", "io.containerd.cri.v1.runtime", "io.containerd.grpc.v1.cri", "io.containerd.nri.v1.nri"]
`), 0o644); err != nil {
		return nil, err
	}
	d.command = exec.Command(filepath.Join(containerd, "containerd"), "--config", config, "--root", filepath.Join(dir, "root"),
		"--state", filepath.Join(dir, "state"), "--address", d.socket, "--log-level", "warn")
	d.command.Stdout, d.command.Stderr = &d.log, &d.log
	d.command.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := d.command.Start(); err != nil {
		return nil, fmt.Errorf("starting containerd: %w", err)
	}
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(20 * time.Millisecond) {
		_, err := d.ctr(ctx, "version")
		if err == nil {
			return d, nil
		}
		if time.Now().After(deadline) {
			err = fmt.Errorf("starting containerd: it does not answer: %w", err)
			_ = d.stop()
			return nil, fmt.Errorf("%w\n%s", err, d.log.String())
		}
	}
}

func (d *daemon) ctr(ctx context.Context, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	return run(ctx, filepath.Join(containerd, "ctr"), append([]string{"--address", d.socket}, args...)...)
}

// stop ends containerd, once; what it mounted stays until the tests' mount namespace ends.
func (d *daemon) stop() error {
	if d.command.ProcessState != nil {
		return nil
	}
	if err := d.command.Process.Signal(syscall.SIGTERM); err != nil {
		return err
	}
	return d.command.Wait()
}

// said is the end of the daemon's log; it ends the daemon, which writes it.
func (d *daemon) said() string {
	_ = d.stop()
	s := d.log.String()
	return s[max(0, len(s)-8<<10):]
}

// unpack pulls every row from the registry and dumps what containers would see.
func (d *daemon) unpack(ctx context.Context, host string, into map[string]expected) error {
	var mu sync.Mutex
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(4)
	for _, r := range table {
		group.Go(func() error {
			e, err := d.expect(ctx, host+"/"+r.path(fresh), filepath.Join(work, "seen-"+r.name))
			if err != nil {
				return fmt.Errorf("%s: %w", r.name, err)
			}
			mu.Lock()
			defer mu.Unlock()
			into[r.name] = e
			return nil
		})
	}
	return group.Wait()
}

func (d *daemon) expect(ctx context.Context, reference, mountpoint string) (expected, error) {
	seen, err := d.see(ctx, "overlayfs", reference, mountpoint)
	if err == nil {
		return expected{tree: seen}, nil
	}
	refusal := err.Error()
	if seen, err = d.see(ctx, "native", reference, mountpoint); err != nil {
		return expected{refusal: refusal + "; " + err.Error()}, nil
	}
	return expected{tree: seen, refusal: refusal}, nil
}

// see pulls an image and reads it through a mount for a container. It is writable as a container's: mounted read-only, a single layer
// shows its whiteouts.
func (d *daemon) see(ctx context.Context, snapshotter, reference, mountpoint string) (map[string]tree.Entry, error) {
	// The transfer service, which a node uses too, knows only the snapshotters of its configuration.
	pull := []string{"images", "pull", "--plain-http", "--snapshotter", snapshotter}
	if snapshotter != "overlayfs" {
		pull = append(pull, "--local")
	}
	if _, err := d.ctr(ctx, append(pull, reference)...); err != nil {
		return nil, err
	}
	mountpoint += "-" + snapshotter
	unmount, err := d.mount(ctx, snapshotter, reference, mountpoint)
	if err != nil {
		return nil, err
	}
	defer unmount()
	return dumpOf(ctx, mountpoint)
}

// mount mounts a pulled image as for a container.
func (d *daemon) mount(ctx context.Context, snapshotter, reference, mountpoint string) (unmount func(), err error) {
	if err := os.MkdirAll(mountpoint, 0o755); err != nil {
		return nil, err
	}
	if _, err := d.ctr(ctx, "images", "mount", "--rw", "--snapshotter", snapshotter, reference, mountpoint); err != nil {
		return nil, err
	}
	return func() { _ = syscall.Unmount(mountpoint, syscall.MNT_DETACH) }, nil
}

// dumpOf reads the tree below a folder with the dump program.
func dumpOf(ctx context.Context, dir string) (map[string]tree.Entry, error) {
	path := dir + ".tree"
	if _, err := run(ctx, dump, dir, path); err != nil {
		return nil, err
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return tree.Read(f)
}

// run runs a program and returns its standard output; the error holds what it said on standard error.
func run(ctx context.Context, program string, args ...string) (string, error) {
	var out, failure bytes.Buffer
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Stdout, cmd.Stderr = &out, &failure
	if err := cmd.Run(); err != nil {
		return out.String(), fmt.Errorf("%s %s: %w: %s", filepath.Base(program), strings.Join(args, " "), err, strings.TrimSpace(failure.String()))
	}
	return out.String(), nil
}
