package preload

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"path"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/opencontainers/go-digest"

	"github.com/nodeimg/nodeimg/internal/cache"
)

// storeEntry is what one entry of a layer does to the store: it takes something of lower layers away, and perhaps puts a file there.
type storeEntry struct {
	// Removes is a path at which, if Itself, and below which everything of lower layers goes.
	Removes string `json:"removes,omitempty"`
	Itself  bool   `json:"itself,omitempty"`
	// Name of a file in the store, its size in bytes and its digest. Text is its content if it is JSON.
	Name   string        `json:"name,omitempty"`
	Size   int64         `json:"size,omitempty"`
	Digest digest.Digest `json:"digest,omitempty"`
	Text   []byte        `json:"text,omitempty"`
	// Link is the file that it is a hard link to.
	Link string `json:"link,omitempty"`
	// Odd says why it is no file that belongs into a store.
	Odd string `json:"odd,omitempty"`
}

// entriesFormat is part of the key under which entries are remembered.
const entriesFormat = "store-entries-1-"

// entriesOf lists what a layer does to the store, in the layer's order.
func entriesOf(ctx context.Context, known *cache.Cache, layer v1.Layer) ([]storeEntry, error) {
	if known == nil {
		return readEntries(ctx, layer)
	}
	hash, err := layer.Digest()
	if err != nil {
		return nil, err
	}
	key := entriesFormat + hash.String()
	var entries []storeEntry
	if ok, err := known.Fact(key, &entries); err == nil && ok {
		return entries, nil
	}
	if entries, err = readEntries(ctx, layer); err != nil {
		return nil, err
	}
	return entries, known.PutFact(key, entries)
}

func readEntries(ctx context.Context, layer v1.Layer) ([]storeEntry, error) {
	stream, err := layer.Uncompressed()
	if err != nil {
		return nil, err
	}
	defer stream.Close()
	r := tar.NewReader(&contextReader{ctx, stream})
	var entries []storeEntry
	for {
		header, err := r.Next()
		if errors.Is(err, io.EOF) {
			return entries, nil
		}
		if err != nil {
			return nil, err
		}
		entry, err := readEntry(r, header)
		if err != nil {
			return nil, err
		}
		if entry.Removes != "" || entry.Name != "" {
			entries = append(entries, entry)
		}
	}
}

func readEntry(r io.Reader, header *tar.Header) (storeEntry, error) {
	name := path.Clean("/" + header.Name)[1:]
	dir, base := path.Split(name)
	dir = path.Clean(dir)
	var entry storeEntry
	switch {
	case base == ".wh..wh..opq":
		entry.Removes = dir
	case strings.HasPrefix(base, ".wh."):
		entry.Removes, entry.Itself = path.Join(dir, strings.TrimPrefix(base, ".wh.")), true
	case header.Typeflag != tar.TypeDir:
		// A file where a directory was takes everything below with it.
		entry.Removes, entry.Itself = name, true
		if inStore(name) {
			entry.Name = name
		}
	}
	if !touchesStore(entry.Removes) {
		entry.Removes = ""
	}
	switch {
	case entry.Name == "":
		return entry, nil
	case header.Typeflag == tar.TypeLink:
		entry.Link = path.Clean("/" + header.Linkname)[1:]
		return entry, nil
	case header.Typeflag != tar.TypeReg:
		entry.Odd = "not a regular file"
		return entry, nil
	}
	digester := digest.SHA256.Digester()
	var text bytes.Buffer
	w := io.Writer(digester.Hash())
	if header.Size <= maxManifest {
		w = io.MultiWriter(w, &text)
	}
	if _, err := io.Copy(w, r); err != nil {
		return storeEntry{}, err
	}
	entry.Size, entry.Digest = header.Size, digester.Digest()
	// Layers may be small too, and there may be thousands of them.
	if json.Valid(text.Bytes()) {
		entry.Text = text.Bytes()
	}
	return entry, nil
}
