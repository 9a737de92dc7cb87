package child

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nodeimg/nodeimg/internal/progress"
)

// lock returns the state's lock file, locked. The lock belongs to the open file, not to the process: the init and the daemon inherit
// it, so it is free only when the last of the three is gone, however they ended.
func (d *Daemon) lock(ctx context.Context) (_ *os.File, err error) {
	f, err := os.OpenFile(filepath.Join(d.dir, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			_ = f.Close()
		}
	}()
	var step *progress.Step
	for {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			if step != nil {
				_ = step.Done(nil)
			}
			return f, nil
		}
		if !errors.Is(err, unix.EWOULDBLOCK) && !errors.Is(err, unix.EINTR) {
			return nil, fmt.Errorf("locking %s: %w", f.Name(), err)
		}
		if step == nil {
			step = progress.Start(ctx, "[builder] waiting for another nodeimg%s", readOwner(f))
		}
		select {
		case <-ctx.Done():
			return nil, step.Done(fmt.Errorf("waiting for another nodeimg%s: %w", readOwner(f), context.Cause(ctx)))
		case <-time.After(poll):
		}
	}
}

// String is empty while the owner has not yet said who it is.
func (o owner) String() string {
	if o.PID == 0 {
		return ""
	}
	return fmt.Sprintf(" (pid %d)", o.PID)
}

// readOwner returns what the lock file says, nothing when it says nothing that can be read.
func readOwner(f *os.File) owner {
	var o owner
	b, err := io.ReadAll(io.NewSectionReader(f, 0, 4096))
	if err != nil || json.Unmarshal(b, &o) != nil {
		return owner{}
	}
	return o
}

func writeOwner(f *os.File, o owner) error {
	b, err := json.Marshal(o)
	if err != nil {
		return err
	}
	if err := f.Truncate(0); err != nil {
		return err
	}
	_, err = f.WriteAt(b, 0)
	return err
}

// clean removes what o, whose daemon kept its state in dir, left outside the cache. The names come from a file, so only those that start
// makes are believed.
func clean(o owner, dir string) error {
	var errs []error
	ours := func(name string) bool { return strings.HasPrefix(name, "nodeimg-") && !strings.ContainsRune(name, '/') }
	socketDir := ""
	if parent, name := filepath.Split(o.SocketDir); parent == runDir+"/" && ours(name) {
		socketDir = o.SocketDir
	}
	if o.Sysbox && ours(o.Cgroup) {
		killCgroups(o.Cgroup)
		errs = append(errs, leave(socketDir, dir))
	}
	if socketDir != "" && errors.Join(errs...) == nil {
		errs = append(errs, os.RemoveAll(socketDir))
	}
	if ours(o.Cgroup) {
		errs = append(errs, removeCgroups(o.Cgroup))
	}
	return errors.Join(errs...)
}
