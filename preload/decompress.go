package preload

import (
	"bufio"
	"bytes"
	"compress/bzip2"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"
	"github.com/therootcompany/xz"

	"github.com/nodeimg/nodeimg/internal/cache"
	"github.com/nodeimg/nodeimg/recipes"
)

// The most that a compressed archive may expand to, in bytes and as a multiple of its own size, whichever is more. Layers in archives are
// compressed already or programs and text, which shrink to a fifth; only archives made to fill a disk shrink to a hundredth. Tests have
// smaller disks.
var (
	expandsTo    int64 = 1 << 30
	expandsTimes int64 = 100
)

// maxWindow is the most memory, in bytes, that the window of a decompressor may take: what zstd --ultra -22 and xz -9e need.
const maxWindow = 128 << 20

var (
	gzipMagic  = []byte{0x1f, 0x8b}
	zstdMagic  = []byte{0x28, 0xb5, 0x2f, 0xfd}
	xzMagic    = []byte{0xfd, '7', 'z', 'X', 'Z', 0}
	bzip2Magic = []byte("BZh")
)

// decompressors turn a stream that begins with magic into the plain one. Closing frees memory and is nil where there is none to free.
var decompressors = []struct {
	magic []byte
	open  func(io.Reader) (plain io.Reader, close func(), err error)
}{
	{gzipMagic, func(r io.Reader) (io.Reader, func(), error) {
		z, err := gzip.NewReader(r)
		return z, nil, err
	}},
	{zstdMagic, func(r io.Reader) (io.Reader, func(), error) {
		z, err := zstd.NewReader(r, zstd.WithDecoderMaxWindow(maxWindow), zstd.WithDecoderConcurrency(1))
		if err != nil {
			return nil, nil, err
		}
		return z, z.Close, nil
	}},
	{xzMagic, func(r io.Reader) (io.Reader, func(), error) {
		z, err := xz.NewReader(r, maxWindow)
		return z, nil, err
	}},
	{bzip2Magic, func(r io.Reader) (io.Reader, func(), error) { return bzip2.NewReader(r), nil, nil }},
}

// plainFile is an opened archive that is not compressed, or not any more.
type plainFile struct {
	*os.File
	// discard takes back what opening has put into the cache.
	discard func()
}

// decompressed returns f itself, or the cached plain form of it after closing f.
func decompressed(ctx context.Context, c *cache.Cache, f *os.File) (plainFile, error) {
	head := make([]byte, len(xzMagic))
	n, err := f.ReadAt(head, 0)
	if err != nil && !errors.Is(err, io.EOF) {
		return plainFile{}, err
	}
	for _, d := range decompressors {
		if !bytes.HasPrefix(head[:n], d.magic) {
			continue
		}
		plain, made, err := decompress(ctx, c, f, d.open)
		if err != nil {
			return plainFile{}, err
		}
		opened, err := c.Open(plain)
		if err != nil {
			return plainFile{}, err
		}
		_ = f.Close()
		return plainFile{opened, func() {
			if made {
				_ = os.Remove(c.Path(plain))
			}
		}}, nil
	}
	return plainFile{f, func() {}}, nil
}

// decompress makes sure that the plain form of f lies in the cache, and tells whether it was put there now.
func decompress(ctx context.Context, c *cache.Cache, f *os.File, open func(io.Reader) (io.Reader, func(), error)) (plain digest.Digest, made bool, err error) {
	info, err := f.Stat()
	if err != nil {
		return "", false, err
	}
	absolute, err := filepath.Abs(f.Name())
	if err != nil {
		return "", false, err
	}
	key := fmt.Sprintf("decompressed %s %d %d", absolute, info.Size(), info.ModTime().UnixNano())
	unlock, err := c.Lock(ctx, key)
	if err != nil {
		return "", false, err
	}
	defer unlock()
	if ok, err := c.Fact(key, &plain); err == nil && ok && c.Has(plain) {
		return plain, false, nil
	}
	source := &sourceReader{r: &contextReader{ctx, f}}
	r, free, err := open(bufio.NewReader(source))
	if free != nil {
		defer free()
	}
	if err != nil {
		return "", false, source.blame(err)
	}
	limit := max(expandsTo, expandsTimes*info.Size())
	plain, size, err := c.Put(io.LimitReader(&decodedReader{r, source}, limit+1), "")
	var damaged *recipes.InputError
	switch {
	case errors.As(err, &damaged):
		return "", false, damaged
	case err != nil:
		return "", false, err
	case size > limit:
		_ = os.Remove(c.Path(plain))
		return "", false, recipes.InputErrorf("it expands to more than %d bytes, which no archive of images does; if this one should, decompress it first", limit)
	}
	return plain, true, c.PutFact(key, plain)
}

// sourceReader remembers that reading itself failed, so that this is not taken for damage.
type sourceReader struct {
	r   io.Reader
	err error
}

// Read implements io.Reader.
func (s *sourceReader) Read(p []byte) (int, error) {
	n, err := s.r.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		s.err = err
	}
	return n, err
}

// blame returns why decoding failed: the file could not be read, or its bytes are not what they should be.
func (s *sourceReader) blame(err error) error {
	if s.err != nil {
		return s.err
	}
	return recipes.InputErrorf("it is damaged: %v", err)
}

// decodedReader reads what a decompressor makes of source.
type decodedReader struct {
	r      io.Reader
	source *sourceReader
}

// Read implements io.Reader.
func (d *decodedReader) Read(p []byte) (int, error) {
	n, err := d.r.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		err = d.source.blame(err)
	}
	return n, err
}
