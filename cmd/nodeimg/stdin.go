package main

import (
	"context"
	"io"
)

type readFunc func(p []byte) (int, error)

func (f readFunc) Read(p []byte) (int, error) { return f(p) }

// interruptible reads from r until ctx ends. A read from a terminal or a pipe cannot be interrupted otherwise, and "nodeimg validate -"
// would not react to Ctrl-C. A read of r that is under way when the context ends lasts until the process exits.
func interruptible(ctx context.Context, r io.Reader) io.Reader {
	type result struct {
		text []byte
		err  error
	}
	return readFunc(func(p []byte) (int, error) {
		done := make(chan result, 1)
		size := len(p)
		go func() {
			buffer := make([]byte, size) // Not p: the caller owns it again once Read has returned.
			n, err := r.Read(buffer)
			done <- result{buffer[:n], err}
		}()
		select {
		case <-ctx.Done():
			return 0, context.Cause(ctx)
		case got := <-done:
			return copy(p, got.text), got.err
		}
	})
}
