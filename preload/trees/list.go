package trees

import (
	"archive/tar"
	"fmt"
	"strings"
)

// listing is what a tree holds, sorted by path.
type listing struct {
	// dirs are the directories, those that hold others before these; the first is the root, whose path is empty.
	dirs []listedDir
	// files are the names of everything else.
	files []listedFile
}

type listedDir struct {
	path string
	node *node
}

type listedFile struct {
	// dir is the number of the directory that the name is in.
	dir  int
	name string
	node *node
}

// path of the file.
func (l *listing) path(f listedFile) string { return l.dirs[f.dir].path + "/" + f.name }

// list returns what the tree holds: what overlayfs shows of its directories.
func (t *Tree) list() (*listing, error) {
	l := &listing{}
	if err := l.add("", t.roots); err != nil {
		return nil, &UnfitError{Reason: fmt.Sprintf("layer %s: %v", t.Blob, err)}
	}
	return l, nil
}

func (l *listing) add(path string, dirs stack) error {
	number := len(l.dirs)
	l.dirs = append(l.dirs, listedDir{path, dirs[0]})
	for _, name := range dirs.names() {
		shown := dirs.child(name)
		if len(shown) == 0 {
			continue
		}
		switch n := shown[0]; {
		case strings.HasPrefix(name, whiteoutPrefix):
			return fmt.Errorf("%q would be a whiteout in a layer of the node image", shorten(path+"/"+name))
		case len(path)+1+len(name) > MaxPath:
			return fmt.Errorf("%q is too long to lie in the node image", shorten(path+"/"+name))
		case n.links > maxHardLinks:
			return fmt.Errorf("%q has more hard links than every file system can hold", shorten(path+"/"+name))
		case n.isDir():
			if err := l.add(path+"/"+name, shown); err != nil {
				return err
			}
		default:
			l.files = append(l.files, listedFile{number, name, n})
		}
	}
	return nil
}

// block is the size of a block of the file system that the usage is counted for, in bytes.
const block = 4096

// usage is what containerd counts when it commits a snapshot (github.com/containerd/continuity/fs.DiskUsage): the blocks of each inode,
// here as ext4 would have them.
func (l *listing) usage() (size, inodes int64) {
	entries := make([]int64, len(l.dirs))
	counted := map[*node]bool{}
	for _, f := range l.files {
		entries[f.dir] += entrySize(f.name)
		if f.node.links > 1 {
			if counted[f.node] {
				continue
			}
			counted[f.node] = true
		}
		inodes++
		switch f.node.kind {
		case tar.TypeReg:
			size += blocks(f.node.size)
		case tar.TypeSymlink:
			// Short targets lie in the inode.
			if len(f.node.target) >= 60 {
				size += block
			}
		}
	}
	for i := range l.dirs {
		size += max(block, blocks(entries[i]))
		inodes++
	}
	return size, inodes
}

func blocks(bytes int64) int64 { return (bytes + block - 1) / block * block }

// entrySize is what a name takes in an ext4 directory.
func entrySize(name string) int64 { return int64(8 + (len(name)+3)/4*4) }
