package preload

import (
	"os"
	"path/filepath"
	"sync"
	"testing"
)

func TestSocketDirSweepsWhatTheKilledLeft(t *testing.T) {
	root := t.TempDir()
	t.Setenv("TMPDIR", root)
	left, foreign := filepath.Join(root, "nodeimg-broker-left"), filepath.Join(root, "nodeimg-broker-foreign")
	for _, dir := range []string{left, foreign} {
		if err := os.Mkdir(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, "broker.sock"), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chown(foreign, 65534, 65534); err != nil {
		t.Fatal(err)
	}
	elsewhere := filepath.Join(root, "elsewhere")
	if err := os.Mkdir(elsewhere, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(elsewhere, filepath.Join(root, "nodeimg-broker-link")); err != nil {
		t.Fatal(err)
	}
	first, release, err := socketDir()
	if err != nil {
		t.Fatal(err)
	}
	second, releaseSecond, err := socketDir()
	if err != nil {
		t.Fatal(err)
	}
	for dir, want := range map[string]bool{left: false, foreign: true, elsewhere: true, first: true, second: true} {
		if _, err := os.Lstat(dir); (err == nil) != want {
			t.Errorf("%s is there: %v, want %v", filepath.Base(dir), err == nil, want)
		}
	}
	release()
	releaseSecond()
	for _, dir := range []string{first, second} {
		if _, err := os.Lstat(dir); err == nil {
			t.Errorf("%s is still there", dir)
		}
	}
}

func TestSocketDirsAtOnce(t *testing.T) {
	t.Setenv("TMPDIR", t.TempDir())
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			for range 50 {
				dir, release, err := socketDir()
				if err != nil {
					t.Error(err)
					return
				}
				if err := os.WriteFile(filepath.Join(dir, "broker.sock"), nil, 0o600); err != nil {
					t.Errorf("somebody removed a folder in use: %v", err)
				}
				release()
			}
		})
	}
	all.Wait()
}
