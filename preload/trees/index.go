package trees

import (
	"archive/tar"
	"bufio"
	"context"
	"encoding/gob"
	"errors"
	"fmt"
	"io"

	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"

	"github.com/nodeimg/nodeimg/internal/cache"
)

// indexVersion changes whenever the index of the same layer does.
const indexVersion = 1

// index says where the entries of a layer are kept, and what is known of them as a whole. It is a fact of the cache.
type index struct {
	// Entries is the digest of a blob: zstd over a stream of gob-encoded entries.
	Entries digest.Digest
	// Count of the entries, and bytes of their names, targets and attributes.
	Count, Names int64
	// Opaque says that there are markers of opaque directories.
	Opaque bool
	// Newest is the latest time of an entry.
	Newest int64
	// Unfit is why the layer cannot be unpacked; the entries are then not kept.
	Unfit string
}

func (l Layer) indexKey() string {
	return fmt.Sprintf("layer-index-v%d %s %s %s", indexVersion, l.Digest, l.DiffID, l.MediaType)
}

// readIndex returns the layer's index. Only the first time it reads the layer, from its first to its last byte, and checks it.
func readIndex(ctx context.Context, c *cache.Cache, layer Layer) (index, error) {
	var x index
	known, err := c.Fact(layer.indexKey(), &x)
	if err == nil && known && (x.Unfit != "" || c.Has(x.Entries)) {
		return x, nil
	}
	if err := layer.DiffID.Validate(); err != nil {
		return x, &HostileError{Layer: layer.Digest, Reason: fmt.Sprintf("its diff id %q: %v", shorten(layer.DiffID.String()), err)}
	}
	s, err := openLayer(ctx, c, layer)
	if err != nil {
		return x, err
	}
	defer s.Close()
	r, w := io.Pipe()
	done := make(chan error, 1)
	go func() {
		var err error
		x, err = makeIndex(s, w)
		w.CloseWithError(err)
		done <- err
	}()
	entries, _, putErr := c.Put(r, "")
	r.CloseWithError(errors.New("the cache takes no more"))
	if err := <-done; err != nil && (putErr == nil || isLayerFault(err)) {
		return x, err
	}
	if putErr != nil {
		return x, fmt.Errorf("keeping the index of layer %s: %w", layer.Digest, putErr)
	}
	x.Entries = entries
	if err := c.PutFact(layer.indexKey(), x); err != nil {
		return x, fmt.Errorf("keeping the index of layer %s: %w", layer.Digest, err)
	}
	return x, nil
}

func isLayerFault(err error) bool {
	var hostile *HostileError
	var unfit *UnfitError
	return errors.As(err, &hostile) || errors.As(err, &unfit)
}

// makeIndex reads the stream to its end and writes its entries to w.
func makeIndex(s *stream, w io.Writer) (index, error) {
	var x index
	compressed, err := zstd.NewWriter(w, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithEncoderConcurrency(1))
	if err != nil {
		return x, err
	}
	defer compressed.Close()
	buffered := bufio.NewWriter(compressed)
	encoder := gob.NewEncoder(buffered)
	digester := s.layer.DiffID.Algorithm().Digester()
	all := io.TeeReader(s, digester.Hash())
	var size int64
	last := ""
	for r := tar.NewReader(all); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil && !errors.Is(err, tar.ErrInsecurePath) {
			return x, s.fault(after(last), err)
		}
		last = h.Name
		if x.Count++; x.Count > MaxLayerEntries {
			return x, &HostileError{Layer: s.layer.Digest, Entry: h.Name, Reason: fmt.Sprintf("the layer has more than %d entries", MaxLayerEntries)}
		}
		e, unfit, refused := newEntry(h)
		if refused != "" {
			return x, &HostileError{Layer: s.layer.Digest, Entry: h.Name, Reason: refused}
		}
		if size += e.Size; e.Size > s.limit || size > s.limit {
			return x, &HostileError{Layer: s.layer.Digest, Entry: h.Name, Reason: fmt.Sprintf("the layer's files come to more than %d bytes", s.limit)}
		}
		x.note(e)
		if x.Unfit == "" && unfit != "" {
			x.Unfit = failure(s.layer.Digest, h.Name, errors.New(unfit)).(*UnfitError).Reason
		}
		if x.Unfit == "" && x.Names > MaxNames {
			x.Unfit = fmt.Sprintf("layer %s: its names come to more than %d MiB", s.layer.Digest, MaxNames>>20)
		}
		if x.Unfit == "" {
			if err := encoder.Encode(e); err != nil {
				return x, err
			}
		}
	}
	if err := onlyZeros(all); err != nil {
		return x, s.fault(after(last), err)
	}
	if got := digester.Digest(); got != s.layer.DiffID {
		return x, &HostileError{Layer: s.layer.Digest, Reason: fmt.Sprintf("its diff id is %s, the image says %s", got, s.layer.DiffID)}
	}
	if err := buffered.Flush(); err != nil {
		return x, err
	}
	return x, compressed.Close()
}

func after(name string) string {
	if name == "" {
		return ""
	}
	return "after " + name
}

func (x *index) note(e entry) {
	x.Names += int64(len(e.Name) + len(e.Link))
	for _, attribute := range e.Xattrs {
		x.Names += int64(len(attribute.Name) + len(attribute.Value))
	}
	x.Opaque = x.Opaque || isOpaque(e.Name)
	if e.Type != tar.TypeXGlobalHeader {
		x.Newest = max(x.Newest, e.Time)
	}
}

// onlyZeros reads what follows the end of an archive. Archives are padded with zeros; anything else would be bytes that nobody sees.
func onlyZeros(r io.Reader) error {
	buffer := make([]byte, 64<<10)
	for {
		n, err := r.Read(buffer)
		for _, b := range buffer[:n] {
			if b != 0 {
				return errors.New("bytes follow the end of the archive")
			}
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// each calls f for the entries in their order, with their number.
func (x *index) each(c *cache.Cache, f func(number int32, e *entry) error) error {
	file, err := c.Open(x.Entries)
	if err != nil {
		return err
	}
	defer file.Close()
	r, err := zstd.NewReader(file, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true))
	if err != nil {
		return err
	}
	defer r.Close()
	decoder := gob.NewDecoder(bufio.NewReader(r))
	for number := range x.Count {
		var e entry
		if err := decoder.Decode(&e); err != nil {
			return fmt.Errorf("reading the index %s: %w; remove that blob from the cache", x.Entries, err)
		}
		if err := f(int32(number), &e); err != nil {
			return err
		}
	}
	return nil
}
