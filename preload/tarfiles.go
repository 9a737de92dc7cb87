package preload

import (
	"archive/tar"
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"strings"
	"time"
)

const (
	// maxEntries bounds what is remembered of a hostile archive; an image of a thousand layers has some four thousand entries.
	maxEntries = 1 << 17
	// maxPath is the longest path that Linux takes, in bytes (PATH_MAX).
	maxPath = 4096
)

// tarFiles is a tar archive as a file system: only regular files, found by their clean path.
type tarFiles struct {
	source  tarSource
	entries map[string]tarEntry
}

// tarSource is a plain tar archive.
type tarSource interface {
	io.Seeker
	io.ReaderAt
}

type tarEntry struct {
	offset, size int64
	// link is the clean path of the entry that this one stands for; old versions of Docker save a repeated layer so.
	link string
}

// scanTar finds the files of an archive without reading them. It refuses entries that lie or point outside the archive, that come twice
// with different content, or that are not stored as they are, because programs disagree about what such an archive holds.
func scanTar(source tarSource) (*tarFiles, error) {
	end, err := source.Seek(0, io.SeekEnd)
	if err != nil {
		return nil, err
	}
	t := &tarFiles{source: source, entries: map[string]tarEntry{}}
	headers := &headerReader{source: source, end: end}
	r := tar.NewReader(headers)
	for count := 0; ; count++ {
		header, err := r.Next()
		if errors.Is(err, io.EOF) {
			return t, nil
		}
		if err != nil {
			return nil, err
		}
		if count == maxEntries {
			return nil, fmt.Errorf("more than %d entries", maxEntries)
		}
		// The reader reads whole headers and no further, so this is where the entry's content begins.
		if err := t.addEntry(header, headers.at, end); err != nil {
			return nil, err
		}
	}
}

// headerReader reads many small headers and skips what is between them, with few calls of the system.
type headerReader struct {
	source  io.ReaderAt
	at, end int64
	// buffer holds what lies at the offset from.
	buffer []byte
	from   int64
}

// Read implements io.Reader.
func (h *headerReader) Read(p []byte) (int, error) {
	if h.at >= h.end {
		return 0, io.EOF
	}
	if h.at < h.from || h.at >= h.from+int64(len(h.buffer)) {
		if h.buffer == nil {
			h.buffer = make([]byte, 1<<15)
		}
		b := h.buffer[:cap(h.buffer)]
		n, err := h.source.ReadAt(b, h.at)
		if n == 0 {
			return 0, err
		}
		h.buffer, h.from = b[:n], h.at
	}
	n := copy(p, h.buffer[h.at-h.from:])
	h.at += int64(n)
	return n, nil
}

// Seek implements io.Seeker.
func (h *headerReader) Seek(offset int64, whence int) (int64, error) {
	switch whence {
	case io.SeekCurrent:
		offset += h.at
	case io.SeekEnd:
		offset += h.end
	}
	if offset < 0 {
		return 0, fmt.Errorf("seeking to %d in an archive", offset)
	}
	h.at = offset
	return offset, nil
}

// addEntry remembers an entry whose content begins at offset in an archive that ends at end.
func (t *tarFiles) addEntry(header *tar.Header, offset, end int64) error {
	name, ok := inside("", header.Name)
	if !ok {
		return fmt.Errorf("the entry %q lies outside the archive", shorten(header.Name))
	}
	var entry tarEntry
	switch header.Typeflag {
	case tar.TypeReg:
		if sparse(header) {
			return fmt.Errorf("the entry %q is sparse; write the archive without --sparse", shorten(header.Name))
		}
		if header.Size > end-offset {
			return fmt.Errorf("the archive ends in the middle of the entry %q: %w", shorten(header.Name), io.ErrUnexpectedEOF)
		}
		entry = tarEntry{offset: offset, size: header.Size}
	case tar.TypeGNUSparse:
		return fmt.Errorf("the entry %q is sparse; write the archive without --sparse", shorten(header.Name))
	case tar.TypeSymlink:
		if entry.link, ok = inside(path.Dir(name), header.Linkname); !ok {
			return fmt.Errorf("the entry %q is a symbolic link to %q, outside the archive", shorten(header.Name), shorten(header.Linkname))
		}
	case tar.TypeLink:
		if entry.link, ok = inside("", header.Linkname); !ok {
			return fmt.Errorf("the entry %q is a hard link to %q, outside the archive", shorten(header.Name), shorten(header.Linkname))
		}
	default:
		return nil
	}
	before, again := t.entries[name]
	if again {
		equal, err := t.equal(before, entry)
		if err != nil {
			return err
		}
		if !equal {
			return fmt.Errorf("the entry %q comes twice, with different content", shorten(header.Name))
		}
	}
	t.entries[name] = entry
	return nil
}

// inside returns the clean path of name, seen from the folder dir, and whether it stays within the archive.
func inside(dir, name string) (string, bool) {
	if name == "" || len(name) > maxPath || path.IsAbs(name) || strings.ContainsRune(name, 0) {
		return "", false
	}
	clean := path.Join(dir, name)
	return clean, clean != ".." && !strings.HasPrefix(clean, "../")
}

// sparse tells whether a regular entry's content is a map of its holes and the rest (GNU tar, "PAX Format, Version 1.0" and before).
func sparse(header *tar.Header) bool {
	for key := range header.PAXRecords {
		if strings.HasPrefix(key, "GNU.sparse.") {
			return true
		}
	}
	return false
}

// equal compares two entries with the same name.
func (t *tarFiles) equal(a, b tarEntry) (bool, error) {
	if a.link != "" || b.link != "" || a.size != b.size {
		return a == b, nil
	}
	ra, rb := bufio.NewReader(t.section(a)), bufio.NewReader(t.section(b))
	for left := a.size; left > 0; {
		n := int(min(left, 4096))
		pa, err := ra.Peek(n)
		if err != nil {
			return false, err
		}
		pb, err := rb.Peek(n)
		if err != nil || !bytes.Equal(pa, pb) {
			return false, err
		}
		_, _ = ra.Discard(n)
		_, _ = rb.Discard(n)
		left -= int64(n)
	}
	return true, nil
}

func (t *tarFiles) section(e tarEntry) *io.SectionReader {
	return io.NewSectionReader(t.source, e.offset, e.size)
}

// shorten keeps a name that may be a megabyte long readable in an error.
func shorten(name string) string {
	const limit = 120
	if len(name) <= limit {
		return name
	}
	return name[:limit] + "…"
}

// Open implements fs.FS.
func (t *tarFiles) Open(name string) (fs.File, error) {
	entry, ok := t.entries[name]
	if ok && entry.link != "" {
		entry, ok = t.entries[entry.link]
	}
	if !ok || entry.link != "" {
		return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrNotExist}
	}
	return &tarFile{t.section(entry), path.Base(name)}, nil
}

// tarFile is a file of the archive and says its size.
type tarFile struct {
	*io.SectionReader
	name string
}

// Close implements fs.File.
func (f *tarFile) Close() error { return nil }

// Stat implements fs.File.
func (f *tarFile) Stat() (fs.FileInfo, error) { return f, nil }

// Name implements fs.FileInfo.
func (f *tarFile) Name() string { return f.name }

// Mode implements fs.FileInfo.
func (f *tarFile) Mode() fs.FileMode { return 0o444 }

// ModTime implements fs.FileInfo.
func (f *tarFile) ModTime() time.Time { return time.Time{} }

// IsDir implements fs.FileInfo.
func (f *tarFile) IsDir() bool { return false }

// Sys implements fs.FileInfo.
func (f *tarFile) Sys() any { return nil }
