package nodeimage

import (
	"context"
	"errors"
	"io"
	iofs "io/fs"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/tonistiigi/fsutil"
	"github.com/tonistiigi/fsutil/types"

	"github.com/nodeimg/nodeimg/dockerfiles"
	"github.com/nodeimg/nodeimg/internal/cache"
)

func testContext(t *testing.T) *contextFS {
	t.Helper()
	c, err := cache.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	d, _, err := c.Put(strings.NewReader("program"), "")
	if err != nil {
		t.Fatal(err)
	}
	return newContextFS(c, []dockerfiles.ContextFile{
		{Path: "usr/bin/tool", Mode: 0o755, Blob: d.String(), Size: 7},
		{Path: "etc/motd", Mode: 0o600, Content: []byte("hello"), Size: 5},
		{Path: "etc/sub/conf", Mode: 0o644, Content: []byte("x"), Size: 1},
		{Path: "etc/link", Link: "motd"},
	}, DefaultEpoch)
}

func walk(t *testing.T, f fsutil.FS, target string, decide func(string) error) []string {
	t.Helper()
	var seen []string
	err := f.Walk(t.Context(), target, func(name string, _ iofs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		seen = append(seen, name)
		return decide(name)
	})
	if err != nil {
		t.Fatal(err)
	}
	return seen
}

func TestContextWalk(t *testing.T) {
	f := testContext(t)
	all := func(string) error { return nil }
	skip := func(name string) func(string) error {
		return func(got string) error {
			if got == name {
				return iofs.SkipDir
			}
			return nil
		}
	}
	for name, test := range map[string]struct {
		target string
		decide func(string) error
		want   string
	}{
		"everything":         {"", all, "etc etc/link etc/motd etc/sub etc/sub/conf usr usr/bin usr/bin/tool"},
		"below a folder":     {"/etc", all, "etc etc/link etc/motd etc/sub etc/sub/conf"},
		"a folder skipped":   {"", skip("etc"), "etc usr usr/bin usr/bin/tool"},
		"skipped at a file":  {"", skip("etc/motd"), "etc etc/link etc/motd usr usr/bin usr/bin/tool"},
		"not a name's start": {"etc/mo", all, ""},
	} {
		t.Run(name, func(t *testing.T) {
			if got := strings.Join(walk(t, f, test.target, test.decide), " "); got != test.want {
				t.Errorf("walked %q, want %q", got, test.want)
			}
		})
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := f.Walk(ctx, "", func(string, iofs.DirEntry, error) error { return nil }); !errors.Is(err, context.Canceled) {
		t.Errorf("walking under an ended context: %v", err)
	}
}

func TestContextOpen(t *testing.T) {
	f := testContext(t)
	for name, want := range map[string]string{"usr/bin/tool": "program", "/etc/motd": "hello"} {
		r, err := f.Open(name)
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(r)
		if err != nil || string(b) != want {
			t.Errorf("%s holds %q, %v; want %q", name, b, err, want)
		}
		if err := r.Close(); err != nil {
			t.Error(err)
		}
	}
	if _, err := f.Open("etc/none"); !errors.Is(err, iofs.ErrNotExist) {
		t.Errorf("opening what is not there: %v", err)
	}
}

// TestContextTimesStandForContent holds what keeps BuildKit from taking a changed file of equal size for the old one.
func TestContextTimesStandForContent(t *testing.T) {
	times := map[int64]string{}
	for _, content := range []string{"a", "b", "c", "d"} {
		file := dockerfiles.ContextFile{Path: "f", Content: []byte(content), Size: 1}
		got := modTime(file, DefaultEpoch)
		if other, ok := times[got]; ok {
			t.Errorf("%q and %q have the same time", content, other)
		}
		times[got] = content
		if at := time.Unix(0, got); !at.After(DefaultEpoch) {
			t.Errorf("%q is from %v, before the epoch: the exporter would keep that time", content, at)
		}
		byBlob := modTime(dockerfiles.ContextFile{Path: "f", Blob: digest.FromString(content).String(), Size: 1}, DefaultEpoch)
		if byBlob != got {
			t.Errorf("%q has another time in the cache than in memory", content)
		}
	}
}

// TestContextIsSorted checks the order that fsutil's transfer relies on.
func TestContextIsSorted(t *testing.T) {
	f := newContextFS(nil, []dockerfiles.ContextFile{{Path: "a-b/c"}, {Path: "a/c"}, {Path: "a.b"}}, DefaultEpoch)
	var names []string
	for _, stat := range f.stats {
		names = append(names, stat.Path)
	}
	sorted := slices.IsSortedFunc(f.stats, func(a, b *types.Stat) int { return fsutil.ComparePath(a.Path, b.Path) })
	if !sorted {
		t.Errorf("order %v is not fsutil's", names)
	}
}
