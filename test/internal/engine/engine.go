package engine

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/nodeimg/nodeimg/test/internal/tools"
)

// Network says which network namespace the Engine lives in.
type Network string

const (
	// OwnNetwork gives the Engine a network namespace of its own: it has a loopback device and the networks made in it, no way out,
	// and nothing of it is left in the host's. Published ports are not reachable from the host.
	OwnNetwork Network = "own"
	// HostNetwork leaves the Engine in the host's network namespace, for people: published ports are reachable.
	HostNetwork Network = "host"
)

// startLimit bounds how long the Engine may take to answer, on a machine that is busy.
const startLimit = 2 * time.Minute

// Options configure Start.
type Options struct {
	// Network is OwnNetwork unless set.
	Network Network
	// ContainerdRoot is the root folder of the Engine's containerd, unless it is empty. It must exist, and outlives the Engine.
	ContainerdRoot string
	// Flags are given to dockerd in addition.
	Flags []string
}

// Engine is a running Docker Engine. The caller must Stop it.
type Engine struct {
	host string
	dir  string

	command  *exec.Cmd
	lifeline io.Closer
	exited   chan struct{}
	stop     sync.Once
	err      error
}

// Host is the Engine's address as in DOCKER_HOST.
func (e *Engine) Host() string { return e.host }

// DataRoot is the folder of the Engine's images, volumes and containers; it exists until Stop. It is empty for an Engine that was there
// already.
func (e *Engine) DataRoot() string {
	if e.dir == "" {
		return ""
	}
	return filepath.Join(e.dir, "data")
}

// Open returns the Docker Engine that DOCKER_HOST names or that listens at the default socket, and else one that it starts. Stopping
// an Engine that was there already does nothing. A DOCKER_HOST that does not answer is an error.
func Open(ctx context.Context, options Options) (*Engine, error) {
	if host := os.Getenv("DOCKER_HOST"); host != "" {
		if err := Ping(ctx, host); err != nil {
			return nil, fmt.Errorf("using the Docker Engine of DOCKER_HOST: %w; start it, or unset DOCKER_HOST", err)
		}
		return &Engine{host: host}, nil
	}
	const standard = "unix:///var/run/docker.sock"
	if Ping(ctx, standard) == nil {
		return &Engine{host: standard}, nil
	}
	return Start(ctx, options)
}

// Start compiles what is missing, starts an Engine and returns when it answers. It needs root.
func Start(ctx context.Context, options Options) (*Engine, error) {
	args, err := prepare(ctx, options)
	if err != nil {
		return nil, fmt.Errorf("starting a Docker Engine: %w", err)
	}
	id := fmt.Sprintf("%d-%x", os.Getpid(), time.Now().UnixNano()&0xffffff)
	dir, err := stateDir(id)
	if err != nil {
		return nil, fmt.Errorf("starting a Docker Engine: %w", err)
	}
	// The supervisor ends when its standard input does: the kernel closes the pipe however this process dies.
	reader, writer, err := os.Pipe()
	if err != nil {
		return nil, fmt.Errorf("starting a Docker Engine: %w", err)
	}
	defer reader.Close()
	var said bytes.Buffer
	cmd := exec.Command(args[0], append(args[1:], "-id", id, "-lifeline")...)
	cmd.Args = append(cmd.Args, flagArguments(options.Flags)...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = reader, &said, &said
	// A signal for the terminal's foreground group must not end the Engine before the tests have.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		writer.Close()
		return nil, fmt.Errorf("starting a Docker Engine: %w", err)
	}
	e := &Engine{host: hostOf(dir), dir: dir, command: cmd, lifeline: writer, exited: make(chan struct{})}
	go func() {
		e.err = cmd.Wait()
		close(e.exited)
	}()
	ctx, cancel := context.WithTimeoutCause(ctx, startLimit, errors.New("the Engine does not answer"))
	defer cancel()
	for {
		err := Ping(ctx, e.host)
		if err == nil {
			return e, nil
		}
		select {
		case <-e.exited:
			writer.Close()
			return nil, fmt.Errorf("starting a Docker Engine: %w\n%s", e.err, said.String())
		case <-ctx.Done():
			log := e.Log()
			_ = e.Stop()
			return nil, fmt.Errorf("starting a Docker Engine: %w: %w\n%s", context.Cause(ctx), err, log)
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// Stop ends the Engine with everything in it and waits until nothing of it is left. Further calls return the same.
func (e *Engine) Stop() error {
	if e.command == nil {
		return nil
	}
	e.stop.Do(func() { _ = e.lifeline.Close() })
	<-e.exited
	if e.err != nil {
		return fmt.Errorf("stopping the Docker Engine: %w", e.err)
	}
	return nil
}

// Log returns the end of what the Engine has logged; it is gone after Stop.
func (e *Engine) Log() string {
	if e.dir == "" {
		return "(the Docker Engine was there before; its log is not known)"
	}
	b, err := os.ReadFile(filepath.Join(e.dir, logName))
	if err != nil {
		return err.Error()
	}
	const tail = 16 << 10
	return string(b[max(0, len(b)-tail):])
}

// Ping makes sure that a Docker Engine answers at host (unix:// or tcp://).
func Ping(ctx context.Context, host string) error {
	_, err := request(ctx, host, http.MethodGet, "/_ping")
	return err
}

// request asks the Engine's HTTP API and returns the answer's body. It serves the supervisor, which must not depend on a client
// library: the product's imports of one are in one package.
func request(ctx context.Context, host, method, path string) ([]byte, error) {
	target, err := url.Parse(host)
	if err != nil {
		return nil, fmt.Errorf("reading the Engine's address %s: %w", host, err)
	}
	address := target.Host
	if target.Scheme == "unix" {
		address = target.Path
	}
	client := &http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, target.Scheme, address)
		},
	}}
	req, err := http.NewRequestWithContext(ctx, method, "http://docker"+path, nil)
	if err != nil {
		return nil, fmt.Errorf("asking the Engine at %s: %w", host, err)
	}
	res, err := client.Do(req)
	if err != nil {
		return nil, fmt.Errorf("asking the Engine at %s: %w", host, err)
	}
	defer res.Body.Close()
	body, err := io.ReadAll(io.LimitReader(res.Body, 16<<20))
	if err != nil {
		return nil, fmt.Errorf("asking the Engine at %s: %w", host, err)
	}
	if res.StatusCode >= 300 {
		return nil, fmt.Errorf("asking the Engine at %s for %s: %s: %s", host, path, res.Status, strings.TrimSpace(string(body)))
	}
	return body, nil
}

// prepare compiles the Engine and its supervisor and returns the supervisor's command line.
func prepare(ctx context.Context, options Options) ([]string, error) {
	if os.Geteuid() != 0 {
		return nil, errors.New("it needs root; run as root, or name a running Engine with DOCKER_HOST")
	}
	if _, err := exec.LookPath("runc"); err != nil {
		return nil, fmt.Errorf("finding runc: %w; make deps installs it", err)
	}
	programs, err := tools.Engine(ctx)
	if err != nil {
		return nil, err
	}
	supervisor, err := tools.Command(ctx, "test/cmd/engine")
	if err != nil {
		return nil, err
	}
	network := options.Network
	if network == "" {
		network = OwnNetwork
	}
	return []string{supervisor, "serve", "-programs", programs, "-network", string(network), "-containerd-root", options.ContainerdRoot}, nil
}

// flagArguments passes dockerd's flags behind the supervisor's.
func flagArguments(flags []string) []string {
	if len(flags) == 0 {
		return nil
	}
	return append([]string{"--"}, flags...)
}

// hostOf is the address of the Engine whose state lies in dir.
func hostOf(dir string) string { return "unix://" + filepath.Join(dir, "docker.sock") }

// longestSocket is how long the path of a unix socket may be (unix(7), sun_path without the final zero).
const longestSocket = 107

// stateDir is where the Engine with the id keeps everything.
func stateDir(id string) (string, error) {
	parent, err := tools.CacheDir("engine")
	if err != nil {
		return "", err
	}
	dir := filepath.Join(parent, id)
	if longest := filepath.Join(dir, "containerd", "containerd.sock.ttrpc"); len(longest) > longestSocket {
		return "", fmt.Errorf("the path of the socket %s is too long; name a shorter cache folder with %s", longest, tools.CacheVariable)
	}
	return dir, nil
}
