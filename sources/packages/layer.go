package packages

import (
	"bufio"
	"io"

	"github.com/klauspost/compress/gzip"
	"github.com/opencontainers/go-digest"

	"github.com/nodeimg/nodeimg/internal/cache"
)

// storedLayer is a compressed layer in the cache; as JSON it is a fact.
type storedLayer struct {
	Digest digest.Digest `json:"digest"`
	DiffID digest.Digest `json:"diffID"`
	Size   int64         `json:"size"`
}

// storeLayer stores the tar that write yields as gzip, which every runtime and every registry client reads.
func storeLayer(c *cache.Cache, write func(io.Writer) error) (storedLayer, error) {
	reader, writer := io.Pipe()
	diffID := digest.SHA256.Digester()
	go func() {
		writer.CloseWithError(func() error {
			compressed := gzip.NewWriter(writer)
			buffered := bufio.NewWriterSize(io.MultiWriter(diffID.Hash(), compressed), 1<<20)
			if err := write(buffered); err != nil {
				return err
			}
			if err := buffered.Flush(); err != nil {
				return err
			}
			return compressed.Close()
		}())
	}()
	d, size, err := c.Put(reader, "")
	// Ends the writer when storing failed, for instance on a full disk.
	reader.CloseWithError(err)
	if err != nil {
		return storedLayer{}, err
	}
	return storedLayer{Digest: d, DiffID: diffID.Digest(), Size: size}, nil
}
