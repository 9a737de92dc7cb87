package cluster

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	goruntime "runtime"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/nodeimg/nodeimg/recipes"
)

// somebody is a user without privileges, and his group.
const somebody = 4242

// asSomebody calls do in a thread whose files are somebody's. It needs root.
func asSomebody(t *testing.T, do func()) {
	t.Helper()
	done := make(chan struct{})
	go func() {
		defer close(done)
		// The thread ends with the goroutine, because it stays locked.
		goruntime.LockOSThread()
		if err := errors.Join(unix.Setfsgid(somebody), unix.Setfsuid(somebody)); err != nil {
			t.Error(err)
			return
		}
		do()
	}()
	<-done
}

// open makes a folder into which everybody can look.
func open(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.Chmod(filepath.Dir(dir), 0o755); err != nil {
		t.Fatal(err)
	}
	return dir
}

func write(t *testing.T, path string, mode fs.FileMode, uid, gid int) {
	t.Helper()
	if err := errors.Join(os.WriteFile(path, kubeconfigFile(t, "kept"), 0o600), os.Chown(path, uid, gid), os.Chmod(path, mode)); err != nil {
		t.Fatal(err)
	}
}

func expectOwner(t *testing.T, path string, mode fs.FileMode, uid, gid uint32) {
	t.Helper()
	info, err := os.Lstat(path)
	if err != nil {
		t.Fatal(err)
	}
	if stat := info.Sys().(*syscall.Stat_t); info.Mode().Perm() != mode || stat.Uid != uid || stat.Gid != gid {
		t.Errorf("%s is %d:%d %s, want %d:%d %s", path, stat.Uid, stat.Gid, info.Mode(), uid, gid, mode)
	}
}

func expectIn(t *testing.T, dir string, want ...string) {
	t.Helper()
	var names []string
	entries, err := os.ReadDir(dir)
	for _, e := range entries {
		names = append(names, e.Name())
	}
	if err != nil || strings.Join(names, " ") != strings.Join(want, " ") {
		t.Errorf("%s has %q, want %q %v", dir, names, want, err)
	}
}

// TestKubeconfigOwner has root change files of somebody: they stay his, and so are those that are new in his folder.
func TestKubeconfigOwner(t *testing.T) {
	dir := open(t)
	path := filepath.Join(dir, "config")
	write(t, path, 0o640, somebody, somebody+1)
	if err := MergeKubeconfig(t.Context(), path, kubeconfigFile(t, "new")); err != nil {
		t.Fatal(err)
	}
	expectOwner(t, path, 0o640, somebody, somebody+1)
	if err := ForgetKubeconfig(t.Context(), path, "new"); err != nil {
		t.Fatal(err)
	}
	expectOwner(t, path, 0o640, somebody, somebody+1)

	home := filepath.Join(dir, "home")
	if err := errors.Join(os.Mkdir(home, 0o755), os.Chown(home, somebody, somebody)); err != nil {
		t.Fatal(err)
	}
	path = filepath.Join(home, "a", "b", "config")
	if err := CheckKubeconfig(t.Context(), path); err != nil {
		t.Error(err)
	}
	if err := ForgetKubeconfig(t.Context(), path, "new"); err != nil {
		t.Error(err)
	}
	expectIn(t, home)
	if err := MergeKubeconfig(t.Context(), path, kubeconfigFile(t, "new")); err != nil {
		t.Fatal(err)
	}
	expectOwner(t, filepath.Join(home, "a"), 0o755, somebody, somebody)
	expectOwner(t, filepath.Join(home, "a", "b"), 0o755, somebody, somebody)
	expectOwner(t, path, 0o600, somebody, somebody)
}

// TestKubeconfigDenied has somebody change files that he may not change, which Check finds out before.
func TestKubeconfigDenied(t *testing.T) {
	dir := open(t)
	his := filepath.Join(dir, "his")
	if err := errors.Join(os.Mkdir(his, 0o755), os.Chown(his, somebody, somebody)); err != nil {
		t.Fatal(err)
	}
	// Readable by all, but somebody cannot give files to root.
	write(t, filepath.Join(his, "roots"), 0o644, 0, 0)
	write(t, filepath.Join(dir, "readable"), 0o644, 0, 0)
	config := kubeconfigFile(t, "new")
	asSomebody(t, func() {
		for _, path := range []string{filepath.Join(dir, "readable"), filepath.Join(dir, "new"), filepath.Join(dir, "sub", "new"), filepath.Join(his, "roots")} {
			for what, err := range map[string]error{"check": CheckKubeconfig(t.Context(), path), "merge": MergeKubeconfig(t.Context(), path, config)} {
				if !errors.Is(err, fs.ErrPermission) || !strings.Contains(err.Error(), path) {
					t.Errorf("%s %s: error %v", what, path, err)
				}
			}
			if err := ForgetKubeconfig(t.Context(), path, "new"); err != nil {
				t.Errorf("forgetting what is not in %s: %v", path, err)
			}
		}
		if err := ForgetKubeconfig(t.Context(), filepath.Join(dir, "readable"), "kept"); !errors.Is(err, fs.ErrPermission) {
			t.Errorf("forgetting what is there: error %v", err)
		}
		mine := filepath.Join(his, "sub", "mine")
		if err := errors.Join(CheckKubeconfig(t.Context(), mine), MergeKubeconfig(t.Context(), mine, config)); err != nil {
			t.Error(err)
		}
	})
	expectIn(t, dir, "his", "readable")
	expectIn(t, his, "roots", "sub")
	expectOwner(t, filepath.Join(his, "sub", "mine"), 0o600, somebody, somebody)
	for _, path := range []string{filepath.Join(dir, "readable"), filepath.Join(his, "roots")} {
		expectOwner(t, path, 0o644, 0, 0)
		if len(read(t, path).Contexts) != 1 {
			t.Errorf("%s was changed", path)
		}
	}
}

// TestKubeconfigCheck looks at kubeconfigs that cannot be, and at one that somebody has locked, and leaves nothing of its own.
func TestKubeconfigCheck(t *testing.T) {
	dir := t.TempDir()
	for path, words := range map[string]string{dir: "is a folder", filepath.Join(dir, "missing") + "/": "is a folder", "/dev/null": "cannot be replaced"} {
		input := new(recipes.InputError)
		if err := CheckKubeconfig(t.Context(), path); !errors.As(err, &input) || !strings.Contains(err.Error(), words) {
			t.Errorf("%s: error %v, want %q as bad input", path, err, words)
		}
	}
	path := filepath.Join(dir, "config")
	write(t, path, 0o600, 0, 0)
	if err := CheckKubeconfig(t.Context(), path); err != nil {
		t.Error(err)
	}
	expectIn(t, dir, "config")
	if err := os.WriteFile(path+".lock", nil, 0); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*lockPoll)
	defer cancel()
	if err := CheckKubeconfig(ctx, path); err == nil || !strings.Contains(err.Error(), path+".lock") {
		t.Errorf("the file is locked: error %v", err)
	}
	expectIn(t, dir, "config", "config.lock")
}

// TestKubeconfigDanglingLink writes where a link leads to, though nothing is there yet.
func TestKubeconfigDanglingLink(t *testing.T) {
	dir := t.TempDir()
	path, second := filepath.Join(dir, "config"), filepath.Join(dir, "second")
	if err := errors.Join(os.Symlink("second", path), os.Symlink(filepath.Join(dir, "sub", "real"), second)); err != nil {
		t.Fatal(err)
	}
	if err := CheckKubeconfig(t.Context(), path); err != nil {
		t.Error(err)
	}
	expectIn(t, dir, "config", "second")
	if err := MergeKubeconfig(t.Context(), path, kubeconfigFile(t, "new")); err != nil {
		t.Fatal(err)
	}
	expectIn(t, dir, "config", "second", "sub")
	expectIn(t, filepath.Join(dir, "sub"), "real")
	if target, err := os.Readlink(path); err != nil || target != "second" {
		t.Errorf("the link is gone: %q %v", target, err)
	}
	if read(t, path).Contexts[ContextName("new")] == nil {
		t.Error("the context is missing")
	}
}
