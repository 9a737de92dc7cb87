package tools

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/gofrs/flock"
)

// module is the product's module; its folder is the repository's root.
const module = "github.com/nodeimg/nodeimg"

// CacheVariable names the environment variable that moves the tests' cache.
const CacheVariable = "NODEIMG_TEST_CACHE"

// lockPoll is how often a contended lock is tried again.
const lockPoll = 200 * time.Millisecond

// CacheDir returns the named folder of the tests' cache, $NODEIMG_TEST_CACHE or else nodeimg-test below os.UserCacheDir, and creates
// it.
func CacheDir(name string) (string, error) {
	dir := os.Getenv(CacheVariable)
	if dir == "" {
		user, err := os.UserCacheDir()
		if err != nil {
			return "", fmt.Errorf("finding the cache directory: %w; set %s", err, CacheVariable)
		}
		dir = filepath.Join(user, "nodeimg-test")
	}
	dir, err := filepath.Abs(filepath.Join(dir, name))
	if err != nil {
		return "", fmt.Errorf("finding the cache directory: %w", err)
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", fmt.Errorf("creating cache folder: %w", err)
	}
	return dir, nil
}

// Root returns the repository's root; the working directory must lie in the repository.
func Root(ctx context.Context) (string, error) {
	out, err := output(exec.CommandContext(ctx, "go", "list", "-m", "-f", "{{.Dir}}", module))
	if err != nil {
		return "", fmt.Errorf("finding the repository: %w", err)
	}
	return strings.TrimSpace(out), nil
}

// Lock waits until this process alone holds the lock file, or ctx ends. The caller must call unlock.
func Lock(ctx context.Context, path string) (unlock func(), err error) {
	l := flock.New(path)
	if _, err := l.TryLockContext(ctx, lockPoll); err != nil {
		return nil, fmt.Errorf("waiting for the lock %s: %w", path, err)
	}
	return func() { _ = l.Close() }, nil
}

// build is one run of go build.
type build struct {
	// module is the folder of the module below the repository's root.
	module string
	// packages are compiled into one program each, named after the package's last element.
	packages []string
	// environment is added to the process's own.
	environment []string
	// flags are given to go build.
	flags []string
}

// engineBuilds are the Docker Engine and what it starts. The version is stamped as upstream's hack/make.sh does, because clients
// read it. The language version is that of upstream's vendor.mod: for a module without a go.mod it would be go1.16, in which the
// variables of loops outlive an iteration, so that "docker images" would list one image several times.
var engineBuilds = []build{
	{
		module:      "test/upstream/engine",
		packages:    []string{"github.com/docker/docker/cmd/dockerd", "github.com/docker/docker/cmd/docker-proxy"},
		environment: []string{"CGO_ENABLED=0"},
		flags:       []string{"-gcflags=github.com/docker/docker/...=-lang=go1.24", "-ldflags=-X github.com/docker/docker/dockerversion.Version=28.5.2 -X github.com/docker/docker/dockerversion.GitCommit=v28.5.2"},
	},
	{
		module: "test/upstream",
		packages: []string{
			"github.com/containerd/containerd/v2/cmd/containerd", "github.com/containerd/containerd/v2/cmd/containerd-shim-runc-v2",
		},
		environment: []string{"CGO_ENABLED=0"},
	},
}

// Engine compiles dockerd, docker-proxy, containerd and containerd-shim-runc-v2 unless they are in the cache, and returns the folder
// that holds them. Compiling takes minutes; what the go command says then goes to stderr.
func Engine(ctx context.Context) (string, error) {
	return compile(ctx, "engine", engineBuilds)
}

// containerdBuilds are containerd and ctr at the version that node images hold.
var containerdBuilds = []build{{
	module: "preload/testdata/containerd",
	packages: []string{
		"github.com/containerd/containerd/v2/cmd/containerd", "github.com/containerd/containerd/v2/cmd/ctr",
	},
	environment: []string{"CGO_ENABLED=0"},
	flags:       []string{"-tags=no_btrfs no_zfs", "-ldflags=-s -w"},
}}

// Containerd compiles containerd and ctr, at the version that node images hold, unless they are in the cache, and returns the folder
// that holds them.
func Containerd(ctx context.Context) (string, error) {
	return compile(ctx, "containerd", containerdBuilds)
}

// storageBuilds are the command line of CRI-O's storage library.
var storageBuilds = []build{{
	module: "test/upstream/storage", packages: []string{"go.podman.io/storage/cmd/containers-storage"}, environment: []string{"CGO_ENABLED=0"},
	flags: []string{"-tags=exclude_graphdriver_btrfs"},
}}

// ContainersStorage compiles the command containers-storage, unless it is in the cache, and returns the program's path.
func ContainersStorage(ctx context.Context) (string, error) {
	dir, err := compile(ctx, "storage", storageBuilds)
	return filepath.Join(dir, "containers-storage"), err
}

// kindBuilds are stock kind.
var kindBuilds = []build{{module: "test/upstream/kind", packages: []string{"sigs.k8s.io/kind"}, environment: []string{"CGO_ENABLED=0"}}}

// Kind compiles stock kind, unless it is in the cache, and returns the program's path.
func Kind(ctx context.Context) (string, error) {
	dir, err := compile(ctx, "kind", kindBuilds)
	return filepath.Join(dir, "kind"), err
}

// buildkitdBuilds are the BuildKit daemon at the product's own version.
var buildkitdBuilds = []build{{
	module: ".", packages: []string{"github.com/moby/buildkit/cmd/buildkitd"}, environment: []string{"CGO_ENABLED=0"}, flags: []string{"-buildvcs=false"},
}}

// Buildkitd compiles the BuildKit daemon that the product starts, unless it is in the cache, and returns the program's path.
func Buildkitd(ctx context.Context) (string, error) {
	dir, err := compile(ctx, "buildkitd", buildkitdBuilds)
	return filepath.Join(dir, "buildkitd"), err
}

// Command compiles a main package of the product's own module, given by its folder below the repository's root, and returns the
// program's path.
func Command(ctx context.Context, pkg string) (string, error) {
	root, err := Root(ctx)
	if err != nil {
		return "", err
	}
	dir, err := CacheDir("tools")
	if err != nil {
		return "", err
	}
	unlock, err := Lock(ctx, filepath.Join(dir, ".lock"))
	if err != nil {
		return "", err
	}
	defer unlock()
	staging, err := os.MkdirTemp(dir, ".staging-")
	if err != nil {
		return "", fmt.Errorf("compiling %s: %w", pkg, err)
	}
	defer os.RemoveAll(staging)
	built := filepath.Join(staging, filepath.Base(pkg))
	if err := run(ctx, root, []string{"CGO_ENABLED=0"}, "go", "build", "-trimpath", "-buildvcs=false", "-o", built, "./"+pkg); err != nil {
		return "", fmt.Errorf("compiling %s: %w", pkg, err)
	}
	content, err := os.ReadFile(built)
	if err != nil {
		return "", fmt.Errorf("compiling %s: %w", pkg, err)
	}
	sum := sha256.Sum256(content)
	final := filepath.Join(dir, filepath.Base(pkg)+"-"+hex.EncodeToString(sum[:8]))
	if err := os.Rename(built, final); err != nil {
		return "", fmt.Errorf("compiling %s: %w", pkg, err)
	}
	return final, nil
}

// compile runs the builds into one folder, unless that is in the cache.
func compile(ctx context.Context, name string, builds []build) (string, error) {
	root, err := Root(ctx)
	if err != nil {
		return "", err
	}
	key, err := contentKey(ctx, root, builds)
	if err != nil {
		return "", fmt.Errorf("compiling %s: %w", name, err)
	}
	dir, err := CacheDir("tools")
	if err != nil {
		return "", err
	}
	final := filepath.Join(dir, name+"-"+key)
	unlock, err := Lock(ctx, filepath.Join(dir, ".lock-"+name))
	if err != nil {
		return "", err
	}
	defer unlock()
	if _, err := os.Stat(final); err == nil {
		return final, nil
	}
	staging, err := os.MkdirTemp(dir, ".staging-")
	if err != nil {
		return "", fmt.Errorf("compiling %s: %w", name, err)
	}
	defer os.RemoveAll(staging)
	for _, b := range builds {
		fmt.Fprintf(os.Stderr, "compiling %s (first time only)\n", strings.Join(b.packages, " "))
		args := append([]string{"build", "-trimpath", "-o", staging + "/"}, b.flags...)
		if err := run(ctx, filepath.Join(root, b.module), b.environment, "go", append(args, b.packages...)...); err != nil {
			return "", fmt.Errorf("compiling %s: %w", name, err)
		}
	}
	if err := os.Chmod(staging, 0o755); err != nil {
		return "", fmt.Errorf("compiling %s: %w", name, err)
	}
	if err := os.Rename(staging, final); err != nil {
		return "", fmt.Errorf("compiling %s: %w", name, err)
	}
	return final, nil
}

// contentKey hashes everything that determines what the builds yield: Go's version, the modules and the flags.
func contentKey(ctx context.Context, root string, builds []build) (string, error) {
	version, err := output(exec.CommandContext(ctx, "go", "version"))
	if err != nil {
		return "", err
	}
	hash := sha256.New()
	fmt.Fprintln(hash, version)
	for _, b := range builds {
		fmt.Fprintf(hash, "%q %q %q\n", b.packages, b.environment, b.flags)
		for _, file := range []string{"go.mod", "go.sum"} {
			content, err := os.ReadFile(filepath.Join(root, b.module, file))
			if err != nil {
				return "", err
			}
			fmt.Fprintf(hash, "%d\n%s", len(content), content)
		}
	}
	return hex.EncodeToString(hash.Sum(nil)[:8]), nil
}

// run runs a command in dir; its output goes to stderr.
func run(ctx context.Context, dir string, environment []string, name string, args ...string) error {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), environment...)
	cmd.Stdout, cmd.Stderr = os.Stderr, os.Stderr
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("%s: %w", cmd, err)
	}
	return nil
}

// output runs a command and returns its standard output; the error holds what it said on standard error.
func output(cmd *exec.Cmd) (string, error) {
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("%s: %w: %s", cmd, err, strings.TrimSpace(stderr.String()))
	}
	return string(out), nil
}
