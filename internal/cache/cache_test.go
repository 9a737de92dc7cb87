package cache_test

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/nodeimg/nodeimg/internal/cache"
)

func open(t *testing.T) *cache.Cache {
	t.Helper()
	c, err := cache.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestPutVerifies(t *testing.T) {
	c := open(t)
	right := digest.FromString("hello")
	if _, _, err := c.Put(strings.NewReader("hullo"), right); !errors.As(err, new(*cache.DigestError)) {
		t.Fatalf("storing wrong bytes: got %v, want a DigestError", err)
	}
	if c.Has(right) || c.Has(digest.FromString("hullo")) {
		t.Fatal("wrong bytes were stored")
	}
	if left, _ := filepath.Glob(filepath.Join(c.Root(), "partial", "*")); len(left) != 0 {
		t.Fatalf("left behind: %v", left)
	}
	got, size, err := c.Put(strings.NewReader("hello"), right)
	if err != nil || got != right || size != 5 {
		t.Fatalf("storing: %s %d %v", got, size, err)
	}
	b, err := os.ReadFile(c.Path(right))
	if err != nil || !bytes.Equal(b, []byte("hello")) {
		t.Fatalf("reading back: %q %v", b, err)
	}
}

func TestFacts(t *testing.T) {
	c := open(t)
	key := "compile/k8s.io/kubernetes@v1.34.10 with a very long key " + strings.Repeat("x", 200)
	var got map[string]string
	if ok, err := c.Fact(key, &got); ok || err != nil {
		t.Fatalf("reading a missing fact: %v %v", ok, err)
	}
	if err := c.PutFact(key, map[string]string{"a": "b"}); err != nil {
		t.Fatal(err)
	}
	if ok, err := c.Fact(key, &got); !ok || err != nil || got["a"] != "b" {
		t.Fatalf("reading a fact back: %v %v %v", ok, err, got)
	}
}

// TestTempDirOfKilledProcess re-executes this test binary, which makes a folder and dies without releasing it.
func TestTempDirOfKilledProcess(t *testing.T) {
	if root := os.Getenv("NODEIMG_TEST_TEMPDIR"); root != "" {
		c, err := cache.Open(root)
		if err != nil {
			t.Fatal(err)
		}
		dir, _, err := c.TempDir("work")
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, "half"), nil, 0o644); err != nil {
			t.Fatal(err)
		}
		os.Exit(9)
	}
	c := open(t)
	alive, release, err := c.TempDir("work")
	if err != nil {
		t.Fatal(err)
	}
	defer release()
	cmd := exec.Command(os.Args[0], "-test.run=^TestTempDirOfKilledProcess$")
	cmd.Env = append(os.Environ(), "NODEIMG_TEST_TEMPDIR="+c.Root())
	if err := cmd.Run(); err == nil || cmd.ProcessState.ExitCode() != 9 {
		t.Fatalf("the other process did not die as it should: %v", err)
	}
	left, _ := filepath.Glob(filepath.Join(c.Root(), "tmp", "*", "half"))
	if len(left) != 1 {
		t.Fatalf("the dead process left %v, want one folder", left)
	}
	_, releaseOther, err := c.TempDir("work")
	if err != nil {
		t.Fatal(err)
	}
	releaseOther()
	if _, err := os.Stat(left[0]); !errors.Is(err, os.ErrNotExist) {
		t.Fatalf("the dead process's folder is still there: %v", err)
	}
	if _, err := os.Stat(alive); err != nil {
		t.Fatalf("a living process's folder is gone: %v", err)
	}
}

// TestTempDirsAtOnce lets everybody's sweep meet everybody else's new folders.
func TestTempDirsAtOnce(t *testing.T) {
	root := t.TempDir()
	var all sync.WaitGroup
	for range 32 {
		all.Go(func() {
			c, err := cache.Open(root)
			if err != nil {
				t.Error(err)
				return
			}
			for range 100 {
				dir, release, err := c.TempDir("work")
				if err != nil {
					t.Error(err)
					return
				}
				if err := os.WriteFile(filepath.Join(dir, "file"), nil, 0o600); err != nil {
					t.Errorf("somebody removed a folder in use: %v", err)
				}
				release()
			}
		})
	}
	all.Wait()
	// Lock files that lost a race are swept by the next one.
	c, err := cache.Open(root)
	if err != nil {
		t.Fatal(err)
	}
	_, release, err := c.TempDir("work")
	if err != nil {
		t.Fatal(err)
	}
	release()
	if left, err := os.ReadDir(filepath.Join(root, "tmp")); err != nil || len(left) > 0 {
		t.Errorf("it left %v, %v", left, err)
	}
}
