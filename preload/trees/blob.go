package trees

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/pkg/archive/compression"
	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"

	"github.com/nodeimg/nodeimg/internal/cache"
)

// stream is a layer's tar, decompressed while it is read.
type stream struct {
	ctx    context.Context
	layer  Layer
	reader io.Reader
	close  []func() error
	// read counts what came out, limit bounds it.
	read, limit int64
	// broken is set when the blob itself could not be read, which is no fault of the layer's.
	broken *error
}

// openLayer opens the layer's blob and decompresses it as containerd does: by what the blob begins with, unless the media type says that
// it is not compressed.
func openLayer(ctx context.Context, c *cache.Cache, layer Layer) (*stream, error) {
	size, err := c.Size(layer.Digest)
	if err != nil {
		return nil, fmt.Errorf("reading layer %s: %w", layer.Digest, err)
	}
	if size != layer.Size {
		return nil, &HostileError{Layer: layer.Digest, Reason: fmt.Sprintf("the blob has %d bytes, its manifest says %d", size, layer.Size)}
	}
	kind, err := images.DiffCompression(ctx, layer.MediaType)
	if err != nil || strings.Contains(layer.MediaType, "encrypted") {
		return nil, &UnfitError{Reason: fmt.Sprintf("layer %s: containerd cannot unpack layers of type %q", layer.Digest, layer.MediaType)}
	}
	file, err := c.Open(layer.Digest)
	if err != nil {
		return nil, fmt.Errorf("reading layer %s: %w", layer.Digest, err)
	}
	s := &stream{ctx: ctx, layer: layer, limit: maxSize(size), broken: new(error), close: []func() error{file.Close}}
	blob := bufio.NewReaderSize(&watched{file, s.broken}, 256<<10)
	s.reader = blob
	if kind == "" {
		s.limit = MaxLayerSize
		return s, nil
	}
	if err := s.decompress(blob); err != nil {
		s.Close()
		return nil, err
	}
	return s, nil
}

func (s *stream) decompress(blob *bufio.Reader) error {
	start, err := blob.Peek(10)
	if err != nil && !errors.Is(err, io.EOF) {
		return s.fault("", err)
	}
	switch compression.DetectCompression(start) {
	case compression.Gzip:
		r, err := gzip.NewReader(blob)
		if err != nil {
			return s.fault("", err)
		}
		s.reader = r
	case compression.Zstd:
		r, err := zstd.NewReader(blob, zstd.WithDecoderMaxWindow(MaxZstdWindow), zstd.WithDecoderLowmem(true))
		if err != nil {
			return s.fault("", err)
		}
		s.reader = r
		s.close = append(s.close, func() error { r.Close(); return nil })
	}
	return nil
}

// Read implements io.Reader.
func (s *stream) Read(p []byte) (int, error) {
	if err := s.ctx.Err(); err != nil {
		return 0, err
	}
	n, err := s.reader.Read(p)
	s.read += int64(n)
	if s.read > s.limit {
		return n, &HostileError{Layer: s.layer.Digest, Reason: fmt.Sprintf("its %d bytes come to more than %d when they are decompressed", s.layer.Size, s.limit)}
	}
	return n, err
}

// Close closes the blob.
func (s *stream) Close() {
	for i := len(s.close) - 1; i >= 0; i-- {
		_ = s.close[i]()
	}
}

// fault says whose fault an error is that came out of the stream: the machine's, or the layer's.
func (s *stream) fault(name string, err error) error {
	var hostile *HostileError
	switch {
	case *s.broken != nil:
		return fmt.Errorf("reading layer %s: %w", s.layer.Digest, *s.broken)
	case s.ctx.Err() != nil:
		return fmt.Errorf("reading layer %s: %w", s.layer.Digest, s.ctx.Err())
	case errors.As(err, &hostile):
		if hostile.Entry == "" {
			hostile.Entry = name
		}
		return hostile
	case errors.Is(err, zstd.ErrWindowSizeExceeded), errors.Is(err, zstd.ErrDecoderSizeExceeded):
		return &UnfitError{Reason: fmt.Sprintf("layer %s: it needs more than %d MiB of memory to decompress", s.layer.Digest, MaxZstdWindow>>20)}
	default:
		return &HostileError{Layer: s.layer.Digest, Entry: name, Reason: fmt.Sprintf("it is damaged: %v", err)}
	}
}

// watched remembers errors of the file below a decompressor.
type watched struct {
	io.Reader
	err *error
}

// Read implements io.Reader.
func (w *watched) Read(p []byte) (int, error) {
	n, err := w.Reader.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		*w.err = err
	}
	return n, err
}
