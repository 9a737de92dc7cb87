package release

import (
	"archive/tar"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"path"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"

	"github.com/nodeimg/nodeimg/internal/cache"
)

const (
	// largestProgram is how long a program may be, in bytes. The longest one, containerd, has about 50 MB.
	largestProgram = 512 << 20
	// largestArchive is how much an archive may unpack to, in bytes.
	largestArchive = 2 << 30
)

// unpack puts the programs of an archive (tar, compressed with gzip) that lies in the cache under sum into the cache, each under its
// own digest, and returns them by entry. Nothing else of the archive is written anywhere. An archive that was unpacked before is not
// read again.
func unpack(ctx context.Context, c *cache.Cache, sum digest.Digest, programs []program) (map[string]programFact, error) {
	unlock, err := c.Lock(ctx, "unpack-"+sum.Encoded())
	if err != nil {
		return nil, err
	}
	defer unlock()
	key := "release-unpacked-" + sum.Encoded()
	var known map[string]programFact
	if ok, err := c.Fact(key, &known); err != nil {
		return nil, err
	} else if ok && !slices.ContainsFunc(programs, func(p program) bool { return !inCache(c, known[p.entry]) }) {
		return known, nil
	}
	f, err := c.Open(sum)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	found, err := readArchive(ctx, c, f, programs)
	if err != nil {
		return nil, err
	}
	return found, c.PutFact(key, found)
}

func inCache(c *cache.Cache, fact programFact) bool {
	size, err := c.Size(fact.Digest)
	return err == nil && size == fact.Size
}

func readArchive(ctx context.Context, c *cache.Cache, r io.Reader, programs []program) (map[string]programFact, error) {
	unzipped, err := gzip.NewReader(r)
	if err != nil {
		return nil, fmt.Errorf("it is not compressed with gzip: %w", err)
	}
	limited := &io.LimitedReader{R: whileLive(ctx, unzipped), N: largestArchive}
	found := map[string]programFact{}
	archive := tar.NewReader(limited)
	for {
		header, err := archive.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, archiveError(limited, err)
		}
		// Names are only compared with those that are expected: no path of the archive is ever used as one.
		entry := strings.TrimPrefix(path.Clean(header.Name), "./")
		if !slices.ContainsFunc(programs, func(p program) bool { return p.entry == entry }) {
			continue
		}
		if _, twice := found[entry]; twice {
			return nil, fmt.Errorf("it holds %s twice", entry)
		}
		if header.Typeflag != tar.TypeReg || header.Size == 0 || header.Size > largestProgram {
			return nil, fmt.Errorf("%s in it is not a program: type %q, %d bytes", entry, header.Typeflag, header.Size)
		}
		d, size, err := c.Put(archive, "")
		if err != nil {
			return nil, archiveError(limited, err)
		}
		found[entry] = programFact{Digest: d, Size: size}
	}
	for _, p := range programs {
		if _, ok := found[p.entry]; !ok {
			return nil, fmt.Errorf("it holds no %s", p.entry)
		}
	}
	return found, nil
}

func archiveError(limited *io.LimitedReader, err error) error {
	if limited.N <= 0 {
		return fmt.Errorf("it unpacks to more than %d bytes", int64(largestArchive))
	}
	return fmt.Errorf("reading the archive: %w", err)
}

// readerFunc is a reader that is only a function.
type readerFunc func(p []byte) (int, error)

// Read implements io.Reader.
func (f readerFunc) Read(p []byte) (int, error) { return f(p) }

// whileLive reads r until ctx ends.
func whileLive(ctx context.Context, r io.Reader) io.Reader {
	return readerFunc(func(p []byte) (int, error) {
		if err := context.Cause(ctx); err != nil {
			return 0, err
		}
		return r.Read(p)
	})
}
