package layers

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"hash"
	"io"
	"runtime"
	"sync"

	"github.com/klauspost/compress/gzip"
	"github.com/opencontainers/go-digest"
	"golang.org/x/sync/errgroup"

	"github.com/nodeimg/nodeimg/internal/cache"
)

// kind of bytes, by how well they compress.
type kind int

const (
	// files are worth compressing.
	files kind = iota
	// packed bytes are compressed already.
	packed
)

// level of gzip for the bytes: the fastest, because whoever adds an image to a node image waits for it.
func (k kind) level() int {
	if k == packed {
		return gzip.NoCompression
	}
	return gzip.BestSpeed
}

const (
	// sectionWorth is the size in bytes from which on compressed bytes get chunks of their own, which costs a few dozen bytes.
	sectionWorth = 64 << 10
	// chunkSize in bytes is what travels from stage to stage. Chunks are compressed one by one, which makes small ones come out larger.
	chunkSize = 1 << 20
	// chunksBetween two stages let one go on while the other waits; more only needs more memory.
	chunksBetween = 2
)

// chunk is a piece of the uncompressed stream; bytes of different kinds never share one.
type chunk struct {
	bytes []byte
	kind  kind
}

var buffers = sync.Pool{New: func() any { b := make([]byte, 0, chunkSize); return &b }}

func (c chunk) free() {
	b := c.bytes[:0]
	buffers.Put(&b)
}

// sections cuts what is written to it into chunks.
type sections struct {
	send    func(chunk) error
	current chunk
}

// Write implements io.Writer.
func (s *sections) Write(p []byte) (int, error) {
	written := 0
	for len(p) > 0 {
		if s.current.bytes == nil {
			s.current.bytes = *buffers.Get().(*[]byte)
		}
		n := min(len(p), chunkSize-len(s.current.bytes))
		s.current.bytes = append(s.current.bytes, p[:n]...)
		p, written = p[n:], written+n
		if len(s.current.bytes) == chunkSize {
			if err := s.flush(); err != nil {
				return written, err
			}
		}
	}
	return written, nil
}

// begin says that bytes of another kind follow.
func (s *sections) begin(k kind) error {
	if k == s.current.kind {
		return nil
	}
	err := s.flush()
	s.current.kind = k
	return err
}

func (s *sections) flush() error {
	if len(s.current.bytes) == 0 {
		return nil
	}
	c := s.current
	s.current.bytes = nil
	return s.send(c)
}

// store puts the gzip form of what produce writes into the cache. Producing, hashing, compressing and storing run at the same time, and a
// few chunks are all that is in memory. When anything fails nothing is stored. The same bytes give the same layer; count gets the number
// of bytes that are done.
func store(ctx context.Context, c *cache.Cache, count func(int64), produce func(context.Context, *sections) error) (madeLayer, error) {
	work, ctx := errgroup.WithContext(ctx)
	produced, hashed := make(chan chunk, chunksBetween), make(chan chunk, chunksBetween)
	r, w := io.Pipe()
	diffID := digest.SHA256.Digester()
	var made madeLayer
	// A channel is closed only after success, so that a stage takes nothing for complete that is not.
	work.Go(func() error {
		s := &sections{send: func(c chunk) error { return send(ctx, produced, c) }}
		if err := produce(ctx, s); err != nil {
			return err
		}
		if err := s.flush(); err != nil {
			return err
		}
		close(produced)
		return nil
	})
	work.Go(func() error { return hashChunks(ctx, produced, hashed, diffID.Hash(), count) })
	work.Go(func() error {
		err := compressChunks(ctx, hashed, w)
		w.CloseWithError(err)
		return err
	})
	work.Go(func() error {
		// With a buffer of this size a member goes through the pipe in one piece.
		d, size, err := c.Put(bufio.NewReaderSize(r, chunkSize), "")
		made.Digest, made.Size = d, size
		r.CloseWithError(errors.Join(errors.New("the cache takes no more"), err))
		return err
	})
	if err := work.Wait(); err != nil {
		return madeLayer{}, err
	}
	made.DiffID = diffID.Digest()
	return made, nil
}

func send(ctx context.Context, to chan<- chunk, c chunk) error {
	select {
	case to <- c:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// receive returns false when nothing more comes.
func receive(ctx context.Context, from <-chan chunk) (chunk, bool, error) {
	select {
	case c, ok := <-from:
		return c, ok, nil
	case <-ctx.Done():
		return chunk{}, false, context.Cause(ctx)
	}
}

func hashChunks(ctx context.Context, from <-chan chunk, to chan<- chunk, sum hash.Hash, count func(int64)) error {
	for {
		c, more, err := receive(ctx, from)
		if err != nil {
			return err
		}
		if !more {
			close(to)
			return nil
		}
		_, _ = sum.Write(c.bytes)
		count(int64(len(c.bytes)))
		if err := send(ctx, to, c); err != nil {
			return err
		}
	}
}

// compressChunks writes each chunk as a gzip member of its own (RFC 1952 allows more than one; stargz layers have one per file, so that all
// readers of layers know them), so that all processors can work on one layer. The headers hold neither name nor time.
func compressChunks(ctx context.Context, from <-chan chunk, to io.Writer) error {
	work, ctx := errgroup.WithContext(ctx)
	// What is being compressed, in the order of the stream.
	members := make(chan chan *bytes.Buffer, runtime.GOMAXPROCS(0))
	work.Go(func() error {
		for {
			c, more, err := receive(ctx, from)
			if err != nil {
				return err
			}
			if !more {
				close(members)
				return nil
			}
			member := make(chan *bytes.Buffer, 1)
			select {
			case members <- member:
			case <-ctx.Done():
				return context.Cause(ctx)
			}
			work.Go(func() error {
				b := results.Get().(*bytes.Buffer)
				err := c.compress(b)
				member <- b
				return err
			})
		}
	})
	work.Go(func() error {
		for {
			select {
			case member, more := <-members:
				if !more {
					return nil
				}
				b := <-member
				if _, err := b.WriteTo(to); err != nil {
					return err
				}
				results.Put(b)
			case <-ctx.Done():
				return context.Cause(ctx)
			}
		}
	})
	return work.Wait()
}

// results are empty buffers for members; encoders are idle compressors by kind.
var (
	results  = sync.Pool{New: func() any { return bytes.NewBuffer(make([]byte, 0, chunkSize)) }}
	encoders [2]sync.Pool
)

// compress writes the chunk to b as a gzip member and gives its own buffer back.
func (c chunk) compress(b *bytes.Buffer) error {
	defer c.free()
	encoder, ok := encoders[c.kind].Get().(*gzip.Writer)
	if ok {
		encoder.Reset(b)
	} else {
		var err error
		if encoder, err = gzip.NewWriterLevel(b, c.kind.level()); err != nil {
			return err
		}
	}
	defer encoders[c.kind].Put(encoder)
	if _, err := encoder.Write(c.bytes); err != nil {
		return err
	}
	return encoder.Close()
}
