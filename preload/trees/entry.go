package trees

import (
	"archive/tar"
	"encoding/binary"
	"fmt"
	"math"
	"path"
	"slices"
	"strings"
	"time"
)

// entry is what unpacking needs to know of a tar header.
type entry struct {
	Type byte
	// Name is cleaned as containerd does it; Link is as the header has it.
	Name, Link string
	// Mode holds the permission, set-id and sticky bits.
	Mode uint16
	// UID and GID are what chown gets.
	UID, GID uint32
	// Time of modification in nanoseconds since 1970.
	Time         int64
	Size         int64
	Major, Minor uint32
	Xattrs       []xattr
}

// xattr is an extended attribute; those of a file are sorted by name.
type xattr struct{ Name, Value string }

const (
	whiteoutPrefix = ".wh."
	opaqueMarker   = ".wh..wh..opq"
	xattrRecord    = "SCHILY.xattr."
	capability     = "security.capability"
	// unchanged is what chown takes for leaving an owner as it is: (uid_t)-1.
	unchanged = math.MaxUint32
)

// newEntry reads a header. unfit is not empty where containerd would fail on it, or where no tree can hold it; refused is not empty where
// nobody should take it.
func newEntry(h *tar.Header) (e entry, unfit, refused string) {
	if climbs(0, h.Name) {
		return e, "", "its name leaves the tree"
	}
	e = entry{
		Type: h.Typeflag,
		Name: path.Clean(h.Name),
		Mode: uint16(h.Mode & 0o7777),
		// The kernel takes 32 bits of what containerd passes to chown and mknod.
		UID:  uint32(h.Uid),
		GID:  uint32(h.Gid),
		Time: boundTime(h.ModTime),
	}
	if len(e.Name) > maxLinkTarget {
		return e, "its name is longer than Linux takes", ""
	}
	for part := range strings.SplitSeq(e.Name, "/") {
		if len(part) > maxName {
			return e, "its name is longer than Linux takes", ""
		}
	}
	switch h.Typeflag {
	case tar.TypeReg:
		e.Size = h.Size
	case tar.TypeDir, tar.TypeFifo:
	case tar.TypeXGlobalHeader:
		return e, "", ""
	case tar.TypeSymlink, tar.TypeLink:
		if h.Typeflag == tar.TypeLink && climbs(0, h.Linkname) {
			return e, "", fmt.Sprintf("it is a hard link to %q, which leaves the tree", shorten(h.Linkname))
		}
		e.Link = h.Linkname
		if len(e.Link) > maxLinkTarget || e.Link == "" {
			return e, "its target is empty or longer than Linux takes", ""
		}
	case tar.TypeChar, tar.TypeBlock:
		if h.Devmajor < 0 || h.Devmajor > math.MaxUint32 || h.Devminor < 0 || h.Devminor > math.MaxUint32 {
			return e, "its device number is out of range", ""
		}
		// What is left after the kernel's new_decode_dev: 12 and 20 bits.
		e.Major, e.Minor = uint32(h.Devmajor)&0xfff, uint32(h.Devminor)&0xfffff
	default:
		return e, fmt.Sprintf("its type %q is not known to containerd", h.Typeflag), ""
	}
	e.Xattrs, unfit = xattrs(h)
	return e, unfit, ""
}

// xattrs returns the attributes of the header that containerd would set.
func xattrs(h *tar.Header) (list []xattr, unfit string) {
	size := 0
	for key, value := range h.PAXRecords {
		name, ok := strings.CutPrefix(key, xattrRecord)
		if !ok {
			continue
		}
		namespace, _, _ := strings.Cut(name, ".")
		switch {
		case name == capability:
			if h.Typeflag != tar.TypeReg && h.Typeflag != tar.TypeLink || !validCapability(value) {
				return nil, "its file capabilities are not valid"
			}
		case strings.HasPrefix(name, "user.overlay."):
			return nil, fmt.Sprintf("overlayfs in a user namespace would take its attribute %s for its own", shorten(name))
		case name == "", name == "user.", len(name) > maxName, namespace == "security", namespace == "system":
			// Access control lists change the mode and pass on to files that are made later; the others depend on the host's kernel.
			return nil, fmt.Sprintf("not every host can set its attribute %s", shorten(name))
		case namespace != "user":
			// containerd does not set trusted.*, and Linux knows no others.
			continue
		}
		if namespace == "user" && h.Typeflag != tar.TypeReg && h.Typeflag != tar.TypeDir && h.Typeflag != tar.TypeLink {
			// Linux lets no other files have them, and containerd goes on.
			continue
		}
		size += len(name) + len(value) + 32
		list = append(list, xattr{name, value})
	}
	if size > MaxXattrs {
		return nil, "it has more extended attributes than every file system can hold"
	}
	slices.SortFunc(list, func(a, b xattr) int { return strings.Compare(a.Name, b.Name) })
	return list, ""
}

// validCapability is what the kernel asks of the value (security/commoncap.c, validheader).
func validCapability(value string) bool {
	if len(value) < 4 {
		return false
	}
	switch revision := binary.LittleEndian.Uint32([]byte(value)) >> 24; revision {
	case 2:
		return len(value) == 20
	case 3:
		return len(value) == 24
	default:
		return false
	}
}

// boundTime is what containerd makes of a time before it sets it (pkg/archive/time.go): what the 64 bits of a timespec in nanoseconds
// cannot say becomes 1970.
func boundTime(t time.Time) int64 {
	if t.Before(time.Unix(0, 0)) || t.After(time.Unix(0, math.MaxInt64)) {
		return 0
	}
	return t.UnixNano()
}

// climbs reports whether the path, followed from a directory of the depth, goes above the root on its way.
func climbs(depth int, p string) bool {
	for part := range strings.SplitSeq(p, "/") {
		switch part {
		case "", ".":
		case "..":
			if depth--; depth < 0 {
				return true
			}
		default:
			depth++
		}
	}
	return false
}
