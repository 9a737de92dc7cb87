package display

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/containerd/console"
	"github.com/google/go-cmp/cmp"
	"github.com/moby/buildkit/client"
	"github.com/opencontainers/go-digest"

	"github.com/nodeimg/nodeimg/internal/progress"
	"github.com/nodeimg/nodeimg/recipes"
)

// work shows one step with bytes and one that fails after the context has ended.
func work(t *testing.T, d *Display) {
	t.Helper()
	ctx, cancel := context.WithCancel(progress.WithSink(t.Context(), d.Sink()))
	fetch := progress.Start(ctx, "[fetch] kubelet %s", "v1.34.10")
	fetch.Total(2 << 20)
	fetch.Add(2 << 20)
	_ = fetch.Done(nil)
	push := progress.Start(ctx, "[push] node")
	cancel()
	push.Log("the registry answers 503")
	_ = push.Done(errors.New("pushing node: it is out of order"))
}

func TestPlain(t *testing.T) {
	var out bytes.Buffer
	d, err := New("plain", &out)
	if err != nil {
		t.Fatal(err)
	}
	work(t, d)
	d.Close()
	for _, want := range []string{"[fetch] kubelet v1.34.10", "2.10MB / 2.10MB", "the registry answers 503", "ERROR: pushing node: it is out of order"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("the screen has no %q:\n%s", want, out.String())
		}
	}
}

func TestRawJSON(t *testing.T) {
	var out bytes.Buffer
	d, err := New("rawjson", &out)
	if err != nil {
		t.Fatal(err)
	}
	work(t, d)
	d.Close()
	var names []string
	for line := range strings.Lines(out.String()) {
		var s client.SolveStatus
		if err := json.Unmarshal([]byte(line), &s); err != nil {
			t.Fatalf("%q: %v", line, err)
		}
		for _, v := range s.Vertexes {
			if v.Completed != nil {
				names = append(names, v.Name)
			}
		}
	}
	if diff := cmp.Diff([]string{"[fetch] kubelet v1.34.10", "[push] node"}, names); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestQuiet(t *testing.T) {
	var out bytes.Buffer
	d, err := New("quiet", &out)
	if err != nil {
		t.Fatal(err)
	}
	work(t, d)
	d.Close()
	if out.Len() > 0 {
		t.Errorf("it wrote %q", out.String())
	}
	if n := len(d.Timings()); n != 2 {
		t.Errorf("it timed %d steps", n)
	}
}

func TestTTY(t *testing.T) {
	terminal, path, err := console.NewPty()
	if err != nil {
		t.Fatal(err)
	}
	defer terminal.Close()
	side, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := terminal.Resize(console.WinSize{Height: 30, Width: 120}); err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	read := make(chan struct{})
	go func() {
		defer close(read)
		_, _ = out.ReadFrom(terminal)
	}()
	d, err := New("auto", side)
	if err != nil {
		t.Fatal(err)
	}
	work(t, d)
	d.Close()
	if err := side.Close(); err != nil {
		t.Fatal(err)
	}
	<-read
	for _, want := range []string{"[+] Building", "=> [fetch] kubelet v1.34.10", "ERROR [push] node", "the registry answers 503"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("the screen has no %q:\n%q", want, out.String())
		}
	}
}

func TestModes(t *testing.T) {
	var input *recipes.InputError
	for _, mode := range []string{"tty", "fancy"} {
		if _, err := New(mode, new(bytes.Buffer)); !errors.As(err, &input) || !strings.Contains(err.Error(), "rawjson") {
			t.Errorf("mode %q without a terminal gave %v", mode, err)
		}
	}
	var out bytes.Buffer
	d, err := New("auto", &out)
	if err != nil {
		t.Fatal(err)
	}
	work(t, d)
	d.Close()
	if !strings.Contains(out.String(), "#1 [fetch] kubelet") {
		t.Errorf("auto without a terminal is not plain:\n%s", out.String())
	}
}

func TestCloseWhileStepsReport(t *testing.T) {
	d, err := New("plain", new(bytes.Buffer))
	if err != nil {
		t.Fatal(err)
	}
	ctx := progress.WithSink(t.Context(), d.Sink())
	var steps sync.WaitGroup
	started := make(chan struct{}, 8)
	for range 8 {
		steps.Go(func() {
			for i := range 200 {
				_ = progress.Start(ctx, "[fetch] blob %d", i).Done(nil)
				if i == 0 {
					started <- struct{}{}
				}
			}
		})
	}
	for range 8 {
		<-started
	}
	d.Close()
	d.Close()
	steps.Wait()
	n := len(d.Timings())
	_ = progress.Start(ctx, "[fetch] late").Done(nil)
	if len(d.Timings()) != n {
		t.Error("a step was counted after Close")
	}
}

func TestTimings(t *testing.T) {
	begin := time.Unix(1000, 0)
	at := func(seconds int) *time.Time { return new(begin.Add(time.Duration(seconds) * time.Second)) }
	c := newClock()
	add := func(name string, cached bool, problem string, from, to *time.Time) {
		c.add(&client.SolveStatus{Vertexes: []*client.Vertex{{
			Digest: digest.FromString(name), Name: name, Cached: cached, Error: problem, Started: from, Completed: to,
		}}})
	}
	add("[fetch] a", false, "", at(0), nil)
	add("[fetch] a", false, "", at(0), at(10))
	add("[fetch] b", false, "", at(5), at(12))
	add("[stage-0 1/2] RUN make", false, "", at(12), at(20))
	add("[stage-0 1/2] RUN make", false, "", at(30), at(31))
	add("[internal] load build definition", true, "", at(12), at(12))
	add("[push] image", false, "refused", at(31), at(33))
	add("[push] never ends", false, "", at(31), nil)

	var out bytes.Buffer
	if err := PrintTimings(&out, c.timings()); err != nil {
		t.Fatal(err)
	}
	const want = `SECONDS  STEP
10.0     [fetch] a
9.0      [stage-0 1/2] RUN make
7.0      [fetch] b
2.0      [push] image (failed)
0.0      [internal] load build definition (cached)

SECONDS  AREA
12.0     fetch
9.0      build
2.0      push
23.0     total
`
	if diff := cmp.Diff(want, out.String()); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}
