package modules

import (
	"archive/zip"
	"context"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// until polls for a condition with a generous limit.
func until(t *testing.T, what string, condition func() bool) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); !condition(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("waiting for %s: not within a minute", what)
		}
	}
}

func TestFindGoWithoutGo(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	if _, err := findGo(t.Context(), t.TempDir()); err == nil || !strings.Contains(err.Error(), "install Go") {
		t.Errorf("error %v does not say what to install", err)
	}
}

func TestChecksumDatabaseOff(t *testing.T) {
	t.Setenv("GOSUMDB", "off")
	if _, err := findGo(t.Context(), t.TempDir()); err == nil || !strings.Contains(err.Error(), "GOSUMDB is off") {
		t.Errorf("error %v does not name GOSUMDB", err)
	}
}

// TestChecksumDatabaseIsAsked serves a changed copy of a public module, while the user's settings exempt everything from the checksum
// database: downloading it must still fail.
func TestChecksumDatabaseIsAsked(t *testing.T) {
	const path, version = "rsc.io/sampler", "v1.3.0"
	proxy := t.TempDir()
	dir := filepath.Join(proxy, path, "@v")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	const mod = "module rsc.io/sampler\n"
	for name, text := range map[string]string{".info": `{"Version":"v1.3.0","Time":"2018-02-13T19:05:03Z"}`, ".mod": mod} {
		if err := os.WriteFile(filepath.Join(dir, version+name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	f, err := os.Create(filepath.Join(dir, version+".zip"))
	if err != nil {
		t.Fatal(err)
	}
	archive := zip.NewWriter(f)
	for name, text := range map[string]string{"go.mod": mod, "sampler.go": "package sampler // changed\n"} {
		w, err := archive.Create(path + "@" + version + "/" + name)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write([]byte(text)); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(archive.Close(), f.Close()); err != nil {
		t.Fatal(err)
	}
	users, err := exec.CommandContext(t.Context(), "go", "env", "GOPROXY").Output()
	if err != nil {
		t.Fatal(err)
	}
	t.Setenv("GOPROXY", "file://"+proxy+","+strings.TrimSpace(string(users)))
	t.Setenv("GONOSUMDB", "*")
	t.Setenv("GOPRIVATE", "*")
	t.Setenv("GONOPROXY", "none")
	t.Setenv("GOFLAGS", "-insecure")
	t.Setenv("GOMODCACHE", moduleCache(t))
	c := newCompiler(t, t.TempDir())
	_, err = c.build(t.Context(), project{name: "changed", version: version, modules: []string{path}, programs: []program{{pkg: path}}})
	if err == nil || !strings.Contains(err.Error(), "checksum mismatch") {
		t.Errorf("compiling a changed module: %v", err)
	}
}

// moduleCache is an empty GOMODCACHE; go makes the folders in it read-only.
func moduleCache(t *testing.T) string {
	dir := t.TempDir()
	t.Cleanup(func() {
		_ = filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
			if err == nil && d.IsDir() {
				return os.Chmod(path, 0o755)
			}
			return nil
		})
	})
	return dir
}

// TestCancelKillsEverything cancels a build whose C compiler hangs, and looks for the C compiler.
func TestCancelKillsEverything(t *testing.T) {
	dir := t.TempDir()
	pidFile := filepath.Join(dir, "pid")
	script := filepath.Join(dir, "cc")
	if err := os.WriteFile(script, []byte("#!/bin/sh\necho $$ >'"+pidFile+".new'\nmv '"+pidFile+".new' '"+pidFile+"'\nexec sleep 600\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	root := t.TempDir()
	c := newCompiler(t, root)
	// Only now, because reading go's configuration runs the C compiler too.
	t.Setenv("CC", script)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	done := make(chan error, 1)
	go func() {
		_, err := c.build(ctx, project{
			name: "hanging", version: "v1.0.0", main: "package main\n\n// int one() { return 1; }\nimport \"C\"\n\nfunc main() { println(C.one()) }\n",
			programs: []program{{pkg: ".", own: "hanging"}}, cgo: func(string) bool { return true },
		})
		done <- err
	}()
	var pid int
	until(t, "the C compiler", func() bool {
		b, err := os.ReadFile(pidFile)
		if err != nil {
			return false
		}
		pid, err = strconv.Atoi(strings.TrimSpace(string(b)))
		return err == nil
	})
	cancel()
	select {
	case err := <-done:
		if !errors.Is(err, context.Canceled) {
			t.Errorf("got %v, want context.Canceled", err)
		}
	case <-time.After(time.Minute):
		t.Fatal("waiting for the cancelled build: not within a minute")
	}
	until(t, "the C compiler's end", func() bool { return gone(pid) })
	assertClean(t, root)
}

// gone reports whether the process has ended; one that nobody has reaped yet has.
func gone(pid int) bool {
	if errors.Is(syscall.Kill(pid, 0), syscall.ESRCH) {
		return true
	}
	stat, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	return err != nil || strings.Contains(string(stat), ") Z ")
}
