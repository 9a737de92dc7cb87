package cli

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nodeimg/nodeimg/builder/child"
	"github.com/nodeimg/nodeimg/test/internal/separate"
	"github.com/nodeimg/nodeimg/test/internal/tools"
)

// The places that TestMain makes for all tests.
var (
	// program is nodeimg, buildkitd lies beside it; both are compiled from what is checked out.
	program, buildkitd string
	// temporary is every nodeimg's TMPDIR.
	temporary string
	// seed makes the images of this run different from those of every other, so that no cache knows them.
	seed = time.Now().UnixNano()
)

func TestMain(m *testing.M) {
	// TestBuildContext starts a builder in this process.
	child.Init()
	status, err := runTests(m)
	if err != nil {
		fmt.Fprintf(os.Stderr, "test/cli: %v\n", err)
		status = 1
	}
	os.Exit(status)
}

func runTests(m *testing.M) (status int, err error) {
	if os.Geteuid() != 0 {
		return 1, fmt.Errorf("nodeimg starts a builder, and that needs root; run the tests as root")
	}
	if err := separate.Mounts(emptyRun); err != nil {
		return 1, err
	}
	// What a killed nodeimg leaves becomes a child of this process and of nobody else's.
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		return 1, err
	}
	root, err := os.MkdirTemp("", "nodeimg-cli-")
	if err != nil {
		return 1, err
	}
	defer os.RemoveAll(root)
	// Other users have to reach the program: one test runs it as nobody.
	if err := os.Chmod(root, 0o755); err != nil {
		return 1, err
	}
	if err := compile(context.Background(), filepath.Join(root, "bin")); err != nil {
		return 1, err
	}
	temporary = filepath.Join(root, "tmp")
	if err := os.Mkdir(temporary, 0o777|os.ModeSticky); err != nil {
		return 1, err
	}
	before, err := machine()
	if err != nil {
		return 1, err
	}
	status = m.Run()
	if left := leftovers(before); len(left) > 0 {
		return 1, fmt.Errorf("the tests changed the machine:\n%s", indent(left))
	}
	return status, nil
}

// emptyRun makes /run empty: what other programs keep there does not show.
func emptyRun() error {
	if err := unix.Mount("run", "/run", "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=0755"); err != nil {
		return fmt.Errorf("mounting an empty /run: %w", err)
	}
	return nil
}

// compile puts nodeimg and buildkitd into dir. The go command relinks only what changed, because it finds the last result in the cache.
func compile(ctx context.Context, dir string) error {
	repository, err := tools.Root(ctx)
	if err != nil {
		return err
	}
	built, err := tools.CacheDir("cli")
	if err != nil {
		return err
	}
	unlock, err := tools.Lock(ctx, filepath.Join(built, ".lock"))
	if err != nil {
		return err
	}
	defer unlock()
	if err := os.Mkdir(dir, 0o755); err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-buildvcs=false", "-o", filepath.Join(built, "nodeimg"), "./cmd/nodeimg")
	cmd.Dir = repository
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("compiling nodeimg: %w\n%s", err, out)
	}
	daemon, err := tools.Buildkitd(ctx)
	if err != nil {
		return err
	}
	// Copies, because the next run of the tests may compile while this one lasts, and other users cannot look into the cache.
	for _, file := range []string{filepath.Join(built, "nodeimg"), daemon} {
		if err := copyProgram(file, filepath.Join(dir, filepath.Base(file))); err != nil {
			return err
		}
	}
	program, buildkitd = filepath.Join(dir, "nodeimg"), filepath.Join(dir, "buildkitd")
	return nil
}

func copyProgram(from, to string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o755)
	if err != nil {
		return err
	}
	if _, err := io.Copy(out, in); err != nil {
		_ = out.Close()
		return err
	}
	return out.Close()
}
