package trees

import (
	"archive/tar"
	"fmt"
	"iter"
	"path"
	"slices"
	"strings"

	"github.com/nodeimg/nodeimg/internal/cache"
)

// upper is the upper directory that containerd unpacks a layer into: pkg/archive.Apply with the options of core/diff/apply. The bottom
// layer is unpacked into a directory that lies over nothing, where whiteouts delete what the layer itself brought before.
type upper struct {
	*view[*node]
	number int32
	// below are the upper directories of the layers below, topmost first.
	below []*upper
	// written are the paths that the layer's entries made, cleared those of opaque directories that were emptied; both only at the bottom.
	written, cleared map[string]bool
	// timed are the directories of the layer's entries, whose times are set last.
	timed []timed
	work  *work
}

type timed struct {
	name string
	time int64
}

// unpack returns the upper directory of the layer.
func unpack(c *cache.Cache, layer Layer, x *index, number int, below []*upper, w *work) (*upper, error) {
	root := &node{kind: tar.TypeDir, mode: 0o755, time: x.Newest}
	if x.Count == 0 && len(below) > 0 {
		root.time = below[0].root.time
	}
	u := &upper{view: upperView(root, w), number: int32(number), below: below, work: w}
	if len(below) == 0 && x.Opaque {
		u.written, u.cleared = map[string]bool{}, map[string]bool{}
	}
	err := x.each(c, func(number int32, e *entry) error {
		if err := u.apply(number, e); err != nil {
			return failure(layer.Digest, e.Name, err)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	for _, dir := range u.timed {
		if err := u.setTime(dir); err != nil {
			return nil, failure(layer.Digest, dir.name, err)
		}
	}
	u.timed, u.written, u.cleared = nil, nil, nil
	u.root.settle(x.Newest)
	u.root.countLinks()
	return u, nil
}

// settle gives a time to directories that have none.
func (n *node) settle(time int64) {
	for _, child := range n.children {
		if !child.isDir() {
			continue
		}
		if child.untimed {
			child.time, child.untimed = time, false
		}
		child.settle(time)
	}
}

func (u *upper) setTime(dir timed) error {
	p, err := u.resolve(dir.name, false)
	if err != nil {
		return err
	}
	n, _, err := u.lstat(p)
	if err != nil {
		return err
	}
	if p != "/" {
		n.time, n.untimed = dir.time, false
	}
	return nil
}

// apply does what containerd does for one entry, in the same order.
func (u *upper) apply(number int32, e *entry) error {
	dir, base := path.Split(e.Name)
	dir, err := u.resolve(dir, true)
	if err != nil {
		return err
	}
	p := path.Join(dir, path.Join("/", base))
	if p == "/" {
		return nil
	}
	parent, err := u.makeParents(dir)
	if err != nil {
		return err
	}
	base = path.Base(p)
	if done, err := u.whiteout(parent, dir, base); done || err != nil {
		return err
	}
	if there := parent.children[base]; there != nil && !(there.isDir() && e.Type == tar.TypeDir) {
		delete(parent.children, base)
	}
	if e.Type != tar.TypeXGlobalHeader {
		n, err := u.create(parent, p, base, number, e)
		if err != nil {
			return err
		}
		if err := n.set(e); err != nil {
			return err
		}
	}
	if e.Type == tar.TypeDir {
		u.timed = append(u.timed, timed{strings.Clone(e.Name), e.Time})
	}
	if u.written != nil {
		u.written[p] = true
	}
	return nil
}

// set gives the node the entry's attributes.
func (n *node) set(e *entry) error {
	n.chown(e.UID, e.GID)
	for _, x := range e.Xattrs {
		if n.kind != tar.TypeReg && x.Name == capability {
			return fmt.Errorf("not every host can set %s on what is not a regular file", capability)
		}
		if n.kind == tar.TypeReg || n.isDir() || !strings.HasPrefix(x.Name, "user.") {
			n.setXattr(x)
		}
	}
	if n.kind != tar.TypeSymlink {
		n.mode = e.Mode
	}
	n.time, n.untimed = e.Time, false
	return nil
}

// newNode makes a node in the directory; the group of a directory with the set-gid bit passes on.
func (u *upper) newNode(parent *node, name string, n node) (*node, error) {
	if u.work.nodes++; u.work.nodes > MaxNodes {
		return nil, errTooMuch
	}
	if parent.mode&0o2000 != 0 {
		n.gid = parent.gid
	}
	if parent.children == nil {
		parent.children = map[string]*node{}
	}
	parent.children[strings.Clone(name)] = &n
	return &n, nil
}

func (u *upper) create(parent *node, p, base string, number int32, e *entry) (*node, error) {
	switch e.Type {
	case tar.TypeDir:
		if there := parent.children[base]; there != nil {
			return there, nil
		}
		return u.newNode(parent, base, node{kind: tar.TypeDir})
	case tar.TypeLink:
		return u.link(parent, p, base, e.Link)
	case tar.TypeSymlink:
		return u.newNode(parent, base, node{kind: e.Type, mode: 0o777, target: strings.Clone(e.Link)})
	default:
		return u.newNode(parent, base, node{kind: e.Type, size: e.Size, major: e.Major, minor: e.Minor, layer: u.number, entry: number})
	}
}

// link makes a hard link. containerd finds the target in the same layer only; a target that lies below is taken as if something had
// opened it for writing before, so that overlayfs had copied it up.
func (u *upper) link(parent *node, p, base, linkname string) (*node, error) {
	dir, file := path.Split(linkname)
	dir, err := u.resolve(dir, true)
	if err != nil {
		return nil, err
	}
	target, _, err := u.lstat(path.Join(dir, file))
	if err == errNotExist && len(u.below) > 0 {
		target, err = u.copyUp(linkname)
	}
	if err != nil {
		return nil, fmt.Errorf("hard link to %q: %w", shorten(linkname), err)
	}
	if target.isDir() {
		return nil, fmt.Errorf("hard link to %q: it is a directory", shorten(linkname))
	}
	if parent.children[base] != nil {
		return nil, fmt.Errorf("hard link to %q: %w", shorten(linkname), errExist)
	}
	if u.work.nodes++; u.work.nodes > MaxNodes {
		return nil, errTooMuch
	}
	if parent.children == nil {
		parent.children = map[string]*node{}
	}
	parent.children[strings.Clone(base)] = target
	return target, nil
}

// copyUp copies the file that overlayfs would show at the path, and the directories that lead to it, from the layers below.
func (u *upper) copyUp(linkname string) (*node, error) {
	roots := stack{u.root}
	for _, b := range u.below {
		roots = append(roots, b.root)
	}
	merged := mergedView(roots, u.work)
	dir, file := path.Split(linkname)
	dir, err := merged.resolve(dir, true)
	if err != nil {
		return nil, err
	}
	p := path.Join(dir, file)
	target, _, err := merged.lstat(p)
	if err != nil || target.isDir() {
		return target, err
	}
	parent, at := u.root, ""
	for part := range strings.SplitSeq(strings.TrimPrefix(dir, "/"), "/") {
		if part == "" {
			break
		}
		at += "/" + part
		child := parent.children[part]
		if child == nil {
			from, _, err := merged.lstat(at)
			if err != nil {
				return nil, err
			}
			if child, err = u.newNode(parent, part, node{kind: tar.TypeDir}); err != nil {
				return nil, err
			}
			child.copyAttributes(from)
		}
		parent = child
	}
	made := *target
	made.links, made.xattrs = 0, slices.Clone(target.xattrs)
	if n := parent.children[path.Base(p)]; n != nil {
		return n, nil
	}
	n, err := u.newNode(parent, path.Base(p), made)
	if err == nil {
		n.gid = target.gid
	}
	return n, err
}

// makeParents returns the directory, whose path has no links, and makes it where it is missing. What it makes has the attributes that it
// finds at the place in the nearest layer below, whatever overlayfs would show there.
func (u *upper) makeParents(dir string) (*node, error) {
	at := u.root
	for end, part := range parts(dir) {
		if err := u.work.step(); err != nil {
			return nil, err
		}
		child := at.children[part]
		if child == nil {
			made, err := u.makeParent(at, part, dir[:end])
			if err != nil {
				return nil, err
			}
			child = made
		}
		if !child.isDir() {
			return nil, errNotDir
		}
		at = child
	}
	return at, nil
}

// parts yields the parts of a clean absolute path, with where each ends.
func parts(p string) iter.Seq2[int, string] {
	return func(yield func(int, string) bool) {
		for start := 1; start < len(p); {
			end := len(p)
			if length := strings.IndexByte(p[start:], '/'); length >= 0 {
				end = start + length
			}
			if !yield(end, p[start:end]) {
				return
			}
			start = end + 1
		}
	}
}

func (u *upper) makeParent(parent *node, name, dir string) (*node, error) {
	n, err := u.newNode(parent, name, node{kind: tar.TypeDir, untimed: true})
	if err != nil {
		return nil, err
	}
	n.mode = 0o755
	for _, b := range u.below {
		p, err := b.resolve(dir, false)
		if err != nil {
			return nil, err
		}
		from, _, err := b.lstat(p)
		if err == errNotExist {
			continue
		}
		if err != nil {
			return nil, err
		}
		if p == "/" {
			from = b.root
		}
		if from.isDir() {
			n.copyAttributes(from)
			n.untimed = false
		}
		break
	}
	return n, nil
}
