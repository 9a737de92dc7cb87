package trees

import (
	"archive/tar"
	"path"
	"strings"
)

func isOpaque(name string) bool { return path.Base(name) == opaqueMarker }

// whiteout does what an entry of the name means when it is a whiteout (image specification, "Whiteouts").
func (u *upper) whiteout(parent *node, dir, base string) (bool, error) {
	name, ok := strings.CutPrefix(base, whiteoutPrefix)
	switch {
	case base == opaqueMarker && len(u.below) > 0:
		// overlayfs does not look whether the root is opaque.
		parent.opaque = parent != u.root
		return true, nil
	case base == opaqueMarker:
		if u.cleared[dir] {
			return true, nil
		}
		u.cleared[dir] = true
		return true, u.clear(parent, dir)
	case !ok:
		return false, nil
	case name == "" || name == "." || name == "..":
		return false, errWhiteout
	case len(u.below) == 0:
		delete(parent.children, name)
		return true, nil
	case parent.children[name] != nil:
		return false, errExist
	}
	_, err := u.newNode(parent, name, node{kind: tar.TypeChar})
	return true, err
}

// clear removes from the directory what no entry of the layer named.
func (u *upper) clear(parent *node, dir string) error {
	for name, child := range parent.children {
		if err := u.work.step(); err != nil {
			return err
		}
		p := path.Join(dir, name)
		// Long paths take their time.
		u.work.steps += int64(len(p) / 16)
		switch {
		case !u.written[p]:
			delete(parent.children, name)
		case child.isDir():
			if err := u.clear(child, p); err != nil {
				return err
			}
		}
	}
	return nil
}
