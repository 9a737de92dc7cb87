// Package progress lets any package of nodeimg show what it is doing on the one screen that BuildKit's display draws. A step is a
// BuildKit vertex; the screen, when there is one, travels in the context, so that packages in the middle need no handle to it.
package progress

import (
	"context"
	"fmt"
	"io"
	"strings"
	"sync"
	"time"

	"github.com/moby/buildkit/client"
	"github.com/opencontainers/go-digest"
)

// Sink receives the status updates of steps. It must be safe for concurrent use.
type Sink func(*client.SolveStatus)

type sinkKey struct{}

// WithSink returns a context whose steps are shown by sink.
func WithSink(ctx context.Context, sink Sink) context.Context {
	return context.WithValue(ctx, sinkKey{}, sink)
}

// SinkFrom returns the sink in ctx, or one that drops everything.
func SinkFrom(ctx context.Context) Sink {
	if sink, ok := ctx.Value(sinkKey{}).(Sink); ok {
		return sink
	}
	return func(*client.SolveStatus) {}
}

// interval is the least time between two updates of a step's byte count.
const interval = 100 * time.Millisecond

// Step is one piece of work on the screen. Its methods are safe for concurrent use.
type Step struct {
	sink    Sink
	mu      sync.Mutex
	vertex  client.Vertex
	current int64
	total   int64
	shown   time.Time
	ended   bool
}

// sequence makes vertices with one name distinct.
var sequence struct {
	sync.Mutex
	n int
}

// Start begins a step named as "[area] what", for instance "[fetch] kubelet v1.34.10". The caller must call Done.
func Start(ctx context.Context, format string, args ...any) *Step {
	name := fmt.Sprintf(format, args...)
	sequence.Lock()
	sequence.n++
	id := digest.FromString(fmt.Sprintf("nodeimg/%d/%s", sequence.n, name))
	sequence.Unlock()
	now := time.Now()
	s := &Step{sink: SinkFrom(ctx), vertex: client.Vertex{Digest: id, Name: name, Started: &now}}
	s.sink(&client.SolveStatus{Vertexes: []*client.Vertex{s.copyVertex()}})
	return s
}

func (s *Step) copyVertex() *client.Vertex {
	v := s.vertex
	return &v
}

// Total sets the number of bytes that are expected in all.
func (s *Step) Total(bytes int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.total = bytes
	s.show(false)
}

// Add counts n more bytes.
func (s *Step) Add(n int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.current += n
	s.show(false)
}

func (s *Step) show(last bool) {
	now := time.Now()
	if s.ended || (!last && now.Sub(s.shown) < interval) {
		return
	}
	s.shown = now
	status := &client.VertexStatus{
		ID: "transferring", Vertex: s.vertex.Digest, Name: "transferring", Total: s.total, Current: s.current,
		Timestamp: now, Started: s.vertex.Started,
	}
	if last {
		status.Completed = &now
	}
	s.sink(&client.SolveStatus{Statuses: []*client.VertexStatus{status}})
}

// Reader counts what is read through it.
func (s *Step) Reader(r io.Reader) io.Reader {
	return io.TeeReader(r, counter{s})
}

type counter struct{ step *Step }

func (c counter) Write(p []byte) (int, error) {
	c.step.Add(int64(len(p)))
	return len(p), nil
}

// Log shows a line below the step.
func (s *Step) Log(format string, args ...any) {
	line := strings.TrimRight(fmt.Sprintf(format, args...), "\n") + "\n"
	s.sink(&client.SolveStatus{Logs: []*client.VertexLog{{Vertex: s.vertex.Digest, Stream: 2, Data: []byte(line), Timestamp: time.Now()}}})
}

// Cached marks the step as answered from the cache.
func (s *Step) Cached() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.vertex.Cached = true
}

// Done ends the step and returns err, so that a caller can write "return step.Done(err)". Only the first call counts.
func (s *Step) Done(err error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ended {
		return err
	}
	if s.current > 0 {
		s.show(true)
	}
	s.ended = true
	now := time.Now()
	s.vertex.Completed = &now
	if err != nil {
		s.vertex.Error = err.Error()
	}
	s.sink(&client.SolveStatus{Vertexes: []*client.Vertex{s.copyVertex()}})
	return err
}
