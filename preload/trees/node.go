package trees

import (
	"archive/tar"
	"slices"
	"strings"
)

// node is a file or directory in a snapshot's upper directory.
type node struct {
	// kind is the tar type; a character device 0:0 is overlayfs's whiteout.
	kind byte
	// opaque directories hide what is below them.
	opaque bool
	// untimed directories have the time at which containerd happened to unpack.
	untimed      bool
	mode         uint16
	uid, gid     uint32
	major, minor uint32
	time         int64
	size         int64
	// layer and entry say where the content lies: in a lower layer when it is the copied target of a hard link.
	layer, entry int32
	// links is the number of names in the snapshot.
	links  int32
	target string
	xattrs []xattr
	// children of a directory by name.
	children map[string]*node
}

func (n *node) isDir() bool { return n.kind == tar.TypeDir }

func (n *node) isWhiteout() bool { return n.kind == tar.TypeChar && n.major == 0 && n.minor == 0 }

// chown does not know the difference between a file and a link to it, and takes the file's capabilities.
func (n *node) chown(uid, gid uint32) {
	if uid != unchanged {
		n.uid = uid
	}
	if gid != unchanged {
		n.gid = gid
	}
	if !n.isDir() {
		n.xattrs = slices.DeleteFunc(n.xattrs, func(x xattr) bool { return x.Name == capability })
	}
}

// setXattr replaces an attribute or adds it.
func (n *node) setXattr(x xattr) {
	i, found := slices.BinarySearchFunc(n.xattrs, x, func(a, b xattr) int { return strings.Compare(a.Name, b.Name) })
	if found {
		// The attributes may be shared with a directory below.
		n.xattrs = slices.Clone(n.xattrs)
		n.xattrs[i] = x
		return
	}
	n.xattrs = slices.Insert(slices.Clone(n.xattrs), i, x)
}

// copyAttributes makes the directory n what from is, except for what is in it.
func (n *node) copyAttributes(from *node) {
	n.mode, n.uid, n.gid, n.time = from.mode, from.uid, from.gid, from.time
	for _, x := range from.xattrs {
		n.setXattr(x)
	}
}

// countLinks counts the names of every file below the directory.
func (n *node) countLinks() {
	for _, child := range n.children {
		if child.isDir() {
			child.countLinks()
		} else {
			child.links++
		}
	}
}

// stack holds the directories that overlayfs shows as one, topmost first, or just one file.
type stack []*node

// child is what overlayfs shows under the name; empty when nothing. The topmost has the attributes. What is not a directory hides all
// below it, and so does an opaque directory.
func (s stack) child(name string) stack {
	var found stack
	for _, dir := range s {
		child := dir.children[name]
		switch {
		case child == nil:
			continue
		case child.isWhiteout():
			return found
		case !child.isDir():
			if found == nil {
				return stack{child}
			}
			return found
		}
		found = append(found, child)
		if child.opaque {
			return found
		}
	}
	return found
}

// names returns the sorted names that overlayfs may show in the directory: those that are whiteouts on top of others are among them.
func (s stack) names() []string {
	count := 0
	for _, dir := range s {
		count += len(dir.children)
	}
	names := make([]string, 0, count)
	for _, dir := range s {
		for name := range dir.children {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// hides reports whether the directory upper, laid over lower, deletes something of it; all says that upper or a directory above it is
// opaque.
func hides(upper *node, lower stack, all bool) bool {
	if len(lower) == 0 {
		return false
	}
	for name, child := range upper.children {
		below := func() stack { return lower.child(name) }
		switch {
		case child.isWhiteout():
			if len(below()) > 0 {
				return true
			}
		case child.isDir():
			if b := below(); len(b) > 0 && b[0].isDir() && hides(child, b, all || child.opaque) {
				return true
			}
		}
	}
	if !all {
		return false
	}
	for _, name := range lower.names() {
		if upper.children[name] == nil && len(lower.child(name)) > 0 {
			return true
		}
	}
	return false
}
