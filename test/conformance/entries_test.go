package conformance

import (
	"archive/tar"
	"bytes"
	"fmt"
	"strings"
	"time"
)

// modified is the time of entries that say nothing else: an odd one, in the past.
var modified = time.Date(2021, 3, 4, 5, 6, 7, 0, time.UTC)

// entry is one entry of a layer's tar.
type entry struct {
	header  tar.Header
	content string
	// raw is written instead, whole blocks: what archive/tar does not write.
	raw []byte
}

// change alters an entry's header.
type change func(*tar.Header)

func newEntry(kind byte, name string, mode int64, changes []change) entry {
	e := entry{header: tar.Header{Typeflag: kind, Name: name, Mode: mode, ModTime: modified, Format: tar.FormatPAX}}
	for _, c := range changes {
		c(&e.header)
	}
	return e
}

func file(name, content string, changes ...change) entry {
	e := newEntry(tar.TypeReg, name, 0o644, changes)
	e.content, e.header.Size = content, int64(len(content))
	return e
}

func dir(name string, changes ...change) entry {
	return newEntry(tar.TypeDir, strings.TrimSuffix(name, "/")+"/", 0o755, changes)
}

func symlink(name, target string, changes ...change) entry {
	e := newEntry(tar.TypeSymlink, name, 0o777, changes)
	e.header.Linkname = target
	return e
}

func hardLink(name, target string, changes ...change) entry {
	e := newEntry(tar.TypeLink, name, 0o644, changes)
	e.header.Linkname = target
	return e
}

func fifo(name string, changes ...change) entry { return newEntry(tar.TypeFifo, name, 0o600, changes) }

func char(name string, major, minor int64, changes ...change) entry {
	return newEntry(tar.TypeChar, name, 0o620, append([]change{device(major, minor)}, changes...))
}

func block(name string, major, minor int64, changes ...change) entry {
	return newEntry(tar.TypeBlock, name, 0o660, append([]change{device(major, minor)}, changes...))
}

// whiteout deletes name from the layers below (image specification, "Whiteouts").
func whiteout(name string, changes ...change) entry {
	i := strings.LastIndex(name, "/") + 1
	return newEntry(tar.TypeReg, name[:i]+".wh."+name[i:], 0o600, changes)
}

// opaque hides everything that the layers below have in the folder name.
func opaque(name string) entry { return newEntry(tar.TypeReg, name+"/.wh..wh..opq", 0o600, nil) }

// raw is bytes as they are.
func raw(blocks []byte) entry { return entry{raw: blocks} }

func mode(m int64) change { return func(h *tar.Header) { h.Mode = m } }

func owner(uid, gid int) change { return func(h *tar.Header) { h.Uid, h.Gid = uid, gid } }

func device(major, minor int64) change {
	return func(h *tar.Header) { h.Devmajor, h.Devminor = major, minor }
}

func at(t time.Time) change { return func(h *tar.Header) { h.ModTime = t } }

func old(f tar.Format) change { return func(h *tar.Header) { h.Format = f } }

// pax adds a PAX record as it is.
func pax(key, value string) change {
	return func(h *tar.Header) {
		if h.PAXRecords == nil {
			h.PAXRecords = map[string]string{}
		}
		h.PAXRecords[key] = value
	}
}

func xattr(name, value string) change { return pax("SCHILY.xattr."+name, value) }

// capability is security.capability with the permitted bits and the effective flag (linux/capability.h, VFS_CAP_REVISION_2).
func capability(bits uint32) change {
	return xattr("security.capability", string([]byte{
		1, 0, 0, 2, byte(bits), byte(bits >> 8), byte(bits >> 16), byte(bits >> 24), 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
	}))
}

// tarOf writes the entries as a tar.
func tarOf(entries []entry) ([]byte, error) {
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	for _, e := range entries {
		if e.raw != nil {
			if err := w.Flush(); err != nil {
				return nil, err
			}
			out.Write(e.raw)
			continue
		}
		if err := w.WriteHeader(&e.header); err != nil {
			return nil, fmt.Errorf("writing %.80q: %w", e.header.Name, err)
		}
		if _, err := w.Write([]byte(e.content)); err != nil {
			return nil, err
		}
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	return out.Bytes(), nil
}

// rawHeader is a tar header block as POSIX.1-1988 has it, with what archive/tar would refuse or change.
func rawHeader(kind byte, name string, size int) []byte {
	b := make([]byte, 512)
	copy(b, name)
	copy(b[100:], "0000644\x00")
	copy(b[108:], "0000000\x00")
	copy(b[116:], "0000000\x00")
	copy(b[124:], fmt.Sprintf("%011o\x00", size))
	copy(b[136:], fmt.Sprintf("%011o\x00", modified.Unix()))
	copy(b[148:], "        ")
	b[156] = kind
	copy(b[257:], "ustar\x0000")
	sum := 0
	for _, c := range b {
		sum += int(c)
	}
	copy(b[148:], fmt.Sprintf("%06o\x00 ", sum))
	return b
}

// padded fills content up to whole blocks.
func padded(content string) []byte {
	return append([]byte(content), make([]byte, (512-len(content)%512)%512)...)
}

// records formats PAX records (pax(1), "LENGTH KEY=VALUE\n").
func records(pairs ...string) string {
	var out strings.Builder
	for i := 0; i < len(pairs); i += 2 {
		rest := " " + pairs[i] + "=" + pairs[i+1] + "\n"
		length := len(rest)
		for length != len(rest)+len(fmt.Sprint(length)) {
			length = len(rest) + len(fmt.Sprint(length))
		}
		fmt.Fprintf(&out, "%d%s", length, rest)
	}
	return out.String()
}

// sparseFile is a file of size bytes with data at each of the offsets, in GNU's sparse format 1.0.
func sparseFile(name string, size int, data string, offsets ...int) entry {
	var list, content strings.Builder
	fmt.Fprintf(&list, "%d\n", len(offsets)+1)
	for _, offset := range offsets {
		fmt.Fprintf(&list, "%d\n%d\n", offset, len(data))
		content.WriteString(data)
	}
	// A last piece without data says where the file ends.
	fmt.Fprintf(&list, "%d\n0\n", size)
	body := append(padded(list.String()), content.String()...)
	header := records("GNU.sparse.major", "1", "GNU.sparse.minor", "0", "GNU.sparse.name", name, "GNU.sparse.realsize", fmt.Sprint(size))
	var out []byte
	out = append(out, rawHeader(tar.TypeXHeader, "PaxHeaders.0/sparse", len(header))...)
	out = append(out, padded(header)...)
	out = append(out, rawHeader(tar.TypeReg, "GNUSparseFile.0/sparse", len(body))...)
	return raw(append(out, padded(string(body))...))
}
