package trees

import (
	"archive/tar"
	"path"
	"strings"
)

// work counts what unpacking costs, over all layers of an image.
type work struct{ nodes, steps int64 }

func (w *work) step() error {
	if w.steps++; w.steps > maxSteps {
		return errTooMuch
	}
	return nil
}

// view is a tree of directories of type D, in which paths are looked up.
type view[D any] struct {
	root D
	work *work
	// child returns what has the name in the directory, as a node and as a directory; the node is nil when there is none.
	child func(dir D, name string) (*node, D)
}

// upperView shows a snapshot's upper directory as it is, whiteouts too.
func upperView(root *node, w *work) *view[*node] {
	return &view[*node]{root: root, work: w, child: func(dir *node, name string) (*node, *node) {
		child := dir.children[name]
		return child, child
	}}
}

// mergedView shows what overlayfs shows of the upper directories, topmost first.
func mergedView(roots stack, w *work) *view[stack] {
	return &view[stack]{root: roots, work: w, child: func(dir stack, name string) (*node, stack) {
		child := dir.child(name)
		if len(child) == 0 {
			return nil, nil
		}
		return child[0], child
	}}
}

// walked is how far a path leads.
type walked[D any] struct {
	node *node
	dir  D
}

// lstat returns what lies at the path. Like the kernel it follows symbolic links on the way; those that lead out of the tree end on the
// machine that unpacks, where we say there is nothing.
func (v *view[D]) lstat(p string) (n *node, dir D, err error) {
	above := []walked[D]{{&node{kind: tar.TypeDir}, v.root}}
	parts := strings.Split(p, "/")
	for links := 0; len(parts) > 0; {
		part := parts[0]
		parts = parts[1:]
		at := above[len(above)-1]
		if err := v.work.step(); err != nil {
			return nil, dir, err
		}
		switch part {
		case "", ".":
			continue
		case "..":
			if len(above) == 1 {
				return nil, dir, errNotExist
			}
			above = above[:len(above)-1]
			continue
		}
		if !at.node.isDir() {
			return nil, dir, errNotDir
		}
		child, childDir := v.child(at.dir, part)
		if child == nil {
			return nil, dir, errNotExist
		}
		if child.kind == tar.TypeSymlink && len(parts) > 0 {
			if links++; links > 40 {
				return nil, dir, errLoop
			}
			if path.IsAbs(child.target) {
				return nil, dir, errNotExist
			}
			parts = append(strings.Split(child.target, "/"), parts...)
			continue
		}
		above = append(above, walked[D]{child, childDir})
	}
	last := above[len(above)-1]
	if len(above) == 1 {
		return last.node, last.dir, nil
	}
	return last.node, last.dir, nil
}

// resolve returns the path with all symbolic links in it followed, bounded by the root, as containerd does it before it writes something
// (github.com/containerd/continuity/fs.RootPath): links of what exists are followed, and .. is taken from the text. Where strict, a
// relative link that climbs above the root is an error instead of ending there.
func (v *view[D]) resolve(p string, strict bool) (string, error) {
	plain, err := v.withoutLinks(p)
	if err != nil || plain != "" {
		return plain, err
	}
	r := &resolution[D]{view: v, strict: strict}
	for {
		before := r.links
		if p, err = r.pass(p); err != nil {
			return "", err
		}
		if r.links == before {
			if clean := path.Join("/", p); clean == p {
				return clean, nil
			}
			p = path.Join("/", p)
		}
	}
}

// withoutLinks returns the cleaned path when no symbolic links are on it, otherwise nothing.
func (v *view[D]) withoutLinks(p string) (string, error) {
	clean := path.Join("/", p)
	at, dir := &node{kind: tar.TypeDir}, v.root
	for part := range strings.SplitSeq(clean[1:], "/") {
		if err := v.work.step(); err != nil {
			return "", err
		}
		if part == "" {
			break
		}
		if !at.isDir() {
			return "", errNotDir
		}
		if at, dir = v.child(dir, part); at == nil {
			return clean, nil
		}
		if at.kind == tar.TypeSymlink {
			return "", nil
		}
	}
	return clean, nil
}

// resolution is one path being resolved.
type resolution[D any] struct {
	*view[D]
	strict bool
	links  int
}

// pass follows each link of the path once, from the left to the right.
func (r *resolution[D]) pass(p string) (string, error) {
	if p == "/" {
		return p, nil
	}
	dir, file := path.Split(p)
	if dir == "" {
		target, _, err := r.follow("/", file)
		return target, err
	}
	if file == "" {
		return r.pass(strings.TrimSuffix(p, "/"))
	}
	dir, err := r.pass(dir)
	if err != nil {
		return "", err
	}
	target, linked, err := r.follow(dir, file)
	if err != nil || !linked || path.IsAbs(target) {
		return target, err
	}
	return path.Join(dir, target), nil
}

// follow returns where dir/file leads: the link's target, or itself.
func (r *resolution[D]) follow(dir, file string) (target string, linked bool, err error) {
	if r.links > 255 {
		return "", false, errLoop
	}
	p := path.Join("/", dir, file)
	n, _, err := r.lstat(p)
	if err == errNotExist || err == nil && n.kind != tar.TypeSymlink {
		return p, false, nil
	}
	if err != nil {
		return "", false, err
	}
	r.links++
	depth := 0
	if !path.IsAbs(n.target) {
		depth = strings.Count(path.Dir(p), "/")
		if path.Dir(p) == "/" {
			depth = 0
		}
	}
	if r.strict && climbs(depth, n.target) {
		return "", false, errEscapes
	}
	return n.target, true, nil
}
