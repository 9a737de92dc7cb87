package main

import (
	"context"
	"io"
)

// contextReader reads from another reader until its context ends. A read from a terminal or a pipe cannot be interrupted otherwise, and
// "nodeimg validate -" would not react to Ctrl-C. A read that is under way when the context ends lasts until the process exits.
type contextReader struct {
	ctx    context.Context // Lives and ends with the reader: io.Reader has no place for it.
	reader io.Reader
}

func (r contextReader) Read(p []byte) (int, error) {
	type result struct {
		data []byte
		err  error
	}
	done := make(chan result, 1)
	go func() {
		buffer := make([]byte, len(p)) // Not p: the caller owns it again once Read has returned.
		n, err := r.reader.Read(buffer)
		done <- result{buffer[:n], err}
	}()
	select {
	case <-r.ctx.Done():
		return 0, context.Cause(r.ctx)
	case got := <-done:
		return copy(p, got.data), got.err
	}
}
