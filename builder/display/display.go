package display

import (
	"context"
	"fmt"
	"io"
	"sync"

	"github.com/containerd/log"
	"github.com/moby/buildkit/client"
	"github.com/moby/buildkit/util/progress/progressui"

	"github.com/nodeimg/nodeimg/internal/progress"
	"github.com/nodeimg/nodeimg/recipes"
)

// Display is one screen. Its methods are safe for concurrent use.
type Display struct {
	drawn chan struct{}

	mu      sync.Mutex
	updates chan *client.SolveStatus
	closed  bool
	clock   clock
}

// New starts a screen on w. The mode is auto (a terminal gets tty, anything else plain), tty, plain, rawjson (one JSON object per line,
// BuildKit's client.SolveStatus) or quiet; another one, or tty where w is no terminal, is a *recipes.InputError. The caller must call
// Close; no context ends the screen, because the last lines, which say what went wrong, are written after a cancellation.
func New(mode string, w io.Writer) (*Display, error) {
	screen, err := progressui.NewDisplay(w, progressui.DisplayMode(mode))
	if err != nil {
		return nil, recipes.InputErrorf("choosing the progress display %q: %v; expected auto, tty (in a terminal), plain, rawjson or quiet", mode, err)
	}
	// BuildKit's client and containerd's stores log through one global logger to the terminal that the screen draws on.
	if err := log.SetLevel("error"); err != nil {
		return nil, fmt.Errorf("quieting libraries: %w", err)
	}
	d := &Display{
		drawn:   make(chan struct{}),
		updates: make(chan *client.SolveStatus),
		clock:   newClock(),
	}
	go func() {
		defer close(d.drawn)
		// It ends when the channel is closed, and has no other error than that of its context.
		_, _ = screen.UpdateFrom(context.Background(), d.updates)
	}()
	return d, nil
}

// Sink returns where steps and solves report to. It never blocks for longer than drawing takes, and drops what comes after Close.
func (d *Display) Sink() progress.Sink {
	return func(s *client.SolveStatus) {
		if s == nil {
			return
		}
		d.mu.Lock()
		defer d.mu.Unlock()
		if d.closed {
			return
		}
		// Before the screen gets it: the screen keeps and changes what it is given.
		d.clock.add(s)
		d.updates <- s
	}
}

// Close draws what is left and ends the screen. It may be called more than once.
func (d *Display) Close() {
	d.mu.Lock()
	if !d.closed {
		d.closed = true
		close(d.updates)
	}
	d.mu.Unlock()
	<-d.drawn
}

// Timings returns how long every step took that has ended, the longest first.
func (d *Display) Timings() []Timing {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.clock.timings()
}
