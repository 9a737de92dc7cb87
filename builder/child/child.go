package child

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/moby/buildkit/client"
	"github.com/moby/buildkit/util/grpcerrors"
	"google.golang.org/grpc/codes"

	"github.com/nodeimg/nodeimg/internal/cache"
	"github.com/nodeimg/nodeimg/internal/progress"
)

const (
	// readyTimeout bounds the start; a daemon that has much state to open takes a few seconds.
	readyTimeout = time.Minute
	// poll is how often a condition that cannot be waited for is looked at.
	poll = 50 * time.Millisecond
	// stopTimeout bounds Close before the init is killed.
	stopTimeout = 4 * time.Second
	// defaultKeep is how much of finished builds the daemon keeps.
	defaultKeep = "10GB"
	// tailBytes is how much of the end of the daemon's log goes into an error.
	tailBytes = 2 << 10
	// runDir is where the socket lies: the path of a unix socket has at most 107 bytes, which a cache directory may exceed.
	runDir = "/run"
)

// Options say which daemon to start.
type Options struct {
	// Cache holds the daemon's state, in its folder "buildkitd".
	Cache *cache.Cache
	// Buildkitd is the path of the daemon's binary; empty means the one beside this program, else the one in PATH.
	Buildkitd string
	// Runtime runs the steps: auto (or empty), runc, sysbox-runc, or the path of an OCI runtime. With sysbox-runc, which auto means where
	// it works, that runs the steps marked by dockerfiles.InnerVariable, and runc runs all others.
	Runtime string
	// Entitlements that the daemon grants when a build asks for them, for instance security.insecure.
	Entitlements []string
	// Keep is the most space, for instance "20GB", that results of earlier builds may take; empty means 10 GB.
	Keep string
}

// Daemon is a builder that runs its own buildkitd. Its methods are safe for concurrent use.
type Daemon struct {
	options   Options
	buildkitd string
	runtimes  runtimes
	dir       string

	mu     sync.Mutex
	run    *running
	closed bool
}

// running is a started daemon with everything that has to be given back.
type running struct {
	owner    owner
	lock     *os.File
	lifeline *os.File
	init     *exec.Cmd
	ended    chan struct{}
	client   *client.Client
}

// owner is what the lock file says about its holder, so that others can name it, and remove what it left if it was killed.
type owner struct {
	PID       int
	SocketDir string
	Cgroup    string
	// Sysbox says that the daemon shares the namespaces of its starter, so that its processes and mounts do not end by themselves.
	Sysbox bool
}

// New checks that a daemon could be started, and starts none.
func New(options Options) (*Daemon, error) {
	if !initReady {
		return nil, errors.New("starting a builder: child.Init was not called first in main")
	}
	if os.Geteuid() != 0 {
		return nil, errors.New("starting a builder: buildkitd needs root; run nodeimg as root, or give the address of a running buildkitd with --builder")
	}
	d := &Daemon{options: options}
	var err error
	if d.buildkitd, err = FindBuildkitd(options.Buildkitd); err != nil {
		return nil, err
	}
	if d.runtimes, err = findRuntimes(options.Runtime); err != nil {
		return nil, err
	}
	if d.dir, err = options.Cache.Dir("buildkitd"); err != nil {
		return nil, err
	}
	return d, nil
}

// String names the builder in messages.
func (d *Daemon) String() string { return "buildkitd started by nodeimg" }

// Connect starts the daemon, unless it runs already, and returns when it answers. While another process has a daemon on the same state,
// Connect waits and shows that.
func (d *Daemon) Connect(ctx context.Context) (*client.Client, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return nil, errors.New("starting a builder: it has been closed")
	}
	if d.run != nil {
		return d.run.client, nil
	}
	lock, err := d.lock(ctx)
	if err != nil {
		return nil, fmt.Errorf("starting a builder: %w", err)
	}
	step := progress.Start(ctx, "[builder] start buildkitd")
	run, err := d.start(ctx, lock)
	if err != nil {
		return nil, step.Done(fmt.Errorf("starting a builder: %w", err))
	}
	d.run = run
	return run.client, step.Done(nil)
}

// start runs the daemon with the locked state. On failure nothing is left, and the lock is released.
func (d *Daemon) start(ctx context.Context, lock *os.File) (_ *running, err error) {
	run := &running{lock: lock}
	defer func() {
		if err != nil {
			err = errors.Join(err, run.stop(d.dir))
		}
	}()
	if err := clean(readOwner(lock), d.dir); err != nil {
		return nil, fmt.Errorf("removing what a killed builder left: %w", err)
	}
	id := make([]byte, 6)
	if _, err := rand.Read(id); err != nil {
		return nil, err
	}
	name := "nodeimg-" + hex.EncodeToString(id)
	run.owner = owner{PID: os.Getpid(), SocketDir: filepath.Join(runDir, name), Cgroup: name, Sysbox: d.runtimes.sysbox != ""}
	if err := writeOwner(lock, run.owner); err != nil {
		return nil, err
	}

	root := filepath.Join(d.dir, "root")
	// The bundles of steps that were killed: BuildKit never looks at them again.
	bundles, err := filepath.Glob(filepath.Join(root, "*", "executor"))
	if err != nil {
		return nil, err
	}
	for _, dir := range bundles {
		if err := os.RemoveAll(dir); err != nil {
			return nil, err
		}
	}
	temporary := filepath.Join(d.dir, "tmp")
	if err := os.RemoveAll(temporary); err != nil {
		return nil, err
	}
	if err := os.Mkdir(temporary, 0o700); err != nil {
		return nil, err
	}
	if err := os.Mkdir(run.owner.SocketDir, 0o700); err != nil {
		return nil, err
	}
	socket := filepath.Join(run.owner.SocketDir, "buildkitd.sock")
	keep := d.options.Keep
	if keep == "" {
		keep = defaultKeep
	}
	config, err := configuration(root, socket, d.binary(run.owner), name, keep, d.options.Entitlements)
	if err != nil {
		return nil, err
	}
	configPath := filepath.Join(d.dir, "buildkitd.toml")
	if err := os.WriteFile(configPath, config, 0o600); err != nil {
		return nil, err
	}
	short := temporaryIn(run.owner.SocketDir)
	request := initRequest{
		Command: []string{d.buildkitd, "--config", configPath},
		// Nothing else of the environment: a proxy or a tracing endpoint of the caller is none of the steps' business.
		Environment: []string{"PATH=" + os.Getenv("PATH"), "HOME=" + short, "TMPDIR=" + short},
		SocketDir:   run.owner.SocketDir,
		Cgroup:      name,
		State:       d.dir,
		Temporary:   temporary,
		// runc and crun keep their state below /run in a folder of their own name.
		RuntimeState: filepath.Join(runDir, filepath.Base(d.runtimes.steps)),
		Sysbox:       d.shim(),
	}
	if err := d.fork(run, request); err != nil {
		return nil, err
	}
	readyCtx, cancel := context.WithTimeoutCause(ctx, readyTimeout, fmt.Errorf("no answer within %s", readyTimeout))
	defer cancel()
	if err := run.ready(readyCtx, socket); err != nil {
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		return nil, fmt.Errorf("%w%s", err, d.logTail())
	}
	return run, nil
}

// fork starts the init, in namespaces of its own unless Sysbox has to see what is in them.
func (d *Daemon) fork(run *running, request initRequest) error {
	argument, err := json.Marshal(request)
	if err != nil {
		return err
	}
	log, err := os.OpenFile(d.logPath(), os.O_CREATE|os.O_WRONLY|os.O_TRUNC|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	reading, writing, err := os.Pipe()
	if err != nil {
		return err
	}
	defer reading.Close()
	run.lifeline = writing

	cmd := exec.Command("/proc/self/exe")
	cmd.Args = []string{initName, string(argument)}
	cmd.Env = []string{"PATH=" + os.Getenv("PATH")}
	cmd.Dir = "/"
	cmd.Stdout, cmd.Stderr = log, log
	cmd.ExtraFiles = []*os.File{lifelineFD - 3: reading, lockFD - 3: run.lock}
	cmd.SysProcAttr = &syscall.SysProcAttr{
		// A session of its own: Ctrl-C in the terminal is for nodeimg, which then stops the daemon in order.
		Setsid: true,
	}
	if request.Sysbox == nil {
		cmd.SysProcAttr.Cloneflags = syscall.CLONE_NEWPID | syscall.CLONE_NEWNS
	}
	if err := cmd.Start(); err != nil {
		if errors.Is(err, syscall.EPERM) {
			return fmt.Errorf("starting buildkitd in its own namespaces: %w: in a container nodeimg needs --privileged, or the address of a running buildkitd with --builder", err)
		}
		return fmt.Errorf("starting buildkitd in its own namespaces: %w", err)
	}
	run.init = cmd
	run.ended = make(chan struct{})
	go func() {
		_ = cmd.Wait()
		close(run.ended)
	}()
	return nil
}

// ready waits until the daemon has a worker.
func (r *running) ready(ctx context.Context, socket string) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	go func() {
		select {
		case <-r.ended:
			cancel(fmt.Errorf("buildkitd ended at once (%s)", r.init.ProcessState))
		case <-ctx.Done():
		}
	}()
	// Dialling by hand first: a gRPC client that found no socket would wait a second before it tries again.
	var dialer net.Dialer
	for {
		conn, err := dialer.DialContext(ctx, "unix", socket)
		if err == nil {
			_ = conn.Close()
			break
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(poll):
		}
	}
	c, err := client.New(ctx, "unix://"+socket)
	if err != nil {
		return err
	}
	r.client = c
	workers, err := c.ListWorkers(ctx)
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if err != nil {
		// The daemon closes its socket a moment before it ends.
		select {
		case <-r.ended:
			return fmt.Errorf("buildkitd ended at once (%s)", r.init.ProcessState)
		case <-time.After(time.Second):
			return err
		}
	}
	if len(workers) == 0 {
		return errors.New("buildkitd has no worker")
	}
	return nil
}

// stop gives everything back, in the order in which it depends on each other. It works on a daemon that was only partly started. dir is
// the daemon's state.
func (r *running) stop(dir string) error {
	var errs []error
	if r.client != nil {
		errs = append(errs, r.client.Close())
	}
	if r.init != nil {
		_ = r.init.Process.Signal(syscall.SIGTERM)
		select {
		case <-r.ended:
		case <-time.After(stopTimeout):
			_ = r.init.Process.Kill()
			<-r.ended
		}
	}
	if r.lifeline != nil {
		_ = r.lifeline.Close()
	}
	errs = append(errs, clean(r.owner, dir))
	if r.owner.PID != 0 {
		errs = append(errs, r.lock.Truncate(0))
	}
	errs = append(errs, r.lock.Close())
	return errors.Join(errs...)
}

// Close stops the daemon and waits until it and all its processes are gone, less than five seconds.
func (d *Daemon) Close() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.closed = true
	if d.run == nil {
		return nil
	}
	err := d.run.stop(d.dir)
	d.run = nil
	if err != nil {
		return fmt.Errorf("stopping the builder: %w", err)
	}
	return nil
}

// Explain adds the end of the daemon's log to an error that comes from the daemon's death.
func (d *Daemon) Explain(err error) error {
	if grpcerrors.Code(err) != codes.Unavailable {
		return err
	}
	return fmt.Errorf("buildkitd ended during the build: %w%s", err, d.logTail())
}

func (d *Daemon) logPath() string { return filepath.Join(d.dir, "buildkitd.log") }

// logTail returns the log's name and its last lines, ready to follow an error message.
func (d *Daemon) logTail() string {
	f, err := os.Open(d.logPath())
	if err != nil {
		return ""
	}
	defer f.Close()
	if size, err := f.Seek(0, io.SeekEnd); err == nil {
		_, _ = f.Seek(max(0, size-tailBytes), io.SeekStart)
	}
	b, err := io.ReadAll(f)
	if err != nil || len(bytes.TrimSpace(b)) == 0 {
		return ""
	}
	if _, whole, ok := bytes.Cut(b, []byte("\n")); ok && len(b) == tailBytes {
		b = whole
	}
	return fmt.Sprintf("\nthe end of %s:\n%s", d.logPath(), strings.TrimSpace(string(b)))
}
