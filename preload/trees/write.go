package trees

import (
	"archive/tar"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"time"
)

const (
	// treeFolder below a snapshot's folder is the snapshotter's upper directory.
	treeFolder = "fs"
	// linksFolder lies beside it. It holds the names of files that have more names in their layer than the tree shows.
	linksFolder = "links"
)

// Write writes the tree's entries below the folder dir, which it names too: directories first, hard links last. The same layers give the
// same entries. Contents are read from the layers' blobs, each at most once, except where a file was copied from a lower layer twice.
func (t *Tree) Write(ctx context.Context, w *tar.Writer, dir string) error {
	if err := t.write(ctx, w, dir); err != nil {
		return fmt.Errorf("writing the tree of snapshot %s: %w", t.ChainID, err)
	}
	return nil
}

func (t *Tree) write(ctx context.Context, w *tar.Writer, dir string) error {
	l, err := t.list()
	if err != nil {
		return err
	}
	out := &output{tar: w, listing: l, dir: dir, layers: t.layers}
	out.sort()
	if err := out.directories(); err != nil {
		return err
	}
	for _, f := range out.empty {
		if err := out.write(out.path(f), f.node); err != nil {
			return err
		}
	}
	for files := out.full; len(files) > 0; {
		var again []listedFile
		for len(files) > 0 {
			layer := files[0].node.layer
			end := slices.IndexFunc(files, func(f listedFile) bool { return f.node.layer != layer })
			if end < 0 {
				end = len(files)
			}
			later, err := out.contents(ctx, t, layer, files[:end])
			if err != nil {
				return err
			}
			files, again = files[end:], append(again, later...)
		}
		files = again
	}
	return out.hardLinks()
}

// output is a tree being written.
type output struct {
	tar *tar.Writer
	*listing
	dir    string
	layers []Layer
	// empty and full are the first names of the files that need nothing from a layer and of those that do, the latter in the order in
	// which they lie in the layers; linked are the other names.
	empty, full, linked []listedFile
	// first is the first name of files with several; extra counts those that the tree does not show.
	first map[*node]listedFile
	extra []listedFile
}

// sort decides in which order files are written.
func (o *output) sort() {
	o.first = map[*node]listedFile{}
	shown := map[*node]int32{}
	for _, f := range o.files {
		if f.node.links > 1 {
			shown[f.node]++
			if _, known := o.first[f.node]; known {
				o.linked = append(o.linked, f)
				continue
			}
			o.first[f.node] = f
		}
		if f.node.kind == tar.TypeReg && f.node.size > 0 {
			o.full = append(o.full, f)
		} else {
			o.empty = append(o.empty, f)
		}
	}
	for _, f := range o.files {
		for n := f.node; n.links > 1 && shown[n] < n.links; shown[n]++ {
			o.extra = append(o.extra, f)
		}
	}
	slices.SortStableFunc(o.full, func(a, b listedFile) int {
		return cmp.Or(cmp.Compare(a.node.layer, b.node.layer), cmp.Compare(a.node.entry, b.node.entry))
	})
}

func (o *output) path(f listedFile) string { return o.dir + "/" + treeFolder + o.listing.path(f) }

func (o *output) directories() error {
	for _, d := range o.dirs {
		if d.path == "" {
			// The snapshot's folder is containerd's own, made by os.MkdirTemp.
			if err := o.write(o.dir, &node{kind: tar.TypeDir, mode: 0o700, time: d.node.time}); err != nil {
				return err
			}
		}
		if err := o.write(o.dir+"/"+treeFolder+d.path, d.node); err != nil {
			return err
		}
	}
	if len(o.extra) == 0 {
		return nil
	}
	return o.write(o.dir+"/"+linksFolder, &node{kind: tar.TypeDir, mode: 0o700, time: o.dirs[0].node.time})
}

func (o *output) hardLinks() error {
	for _, f := range o.linked {
		if err := o.link(o.path(f), f.node); err != nil {
			return err
		}
	}
	for i, f := range o.extra {
		if err := o.link(o.dir+"/"+linksFolder+"/"+strconv.Itoa(i), f.node); err != nil {
			return err
		}
	}
	return nil
}

func (o *output) write(name string, n *node) error {
	h := header(name, n)
	h.Typeflag = n.kind
	switch n.kind {
	case tar.TypeDir:
		h.Name += "/"
	case tar.TypeReg:
		h.Size = n.size
	case tar.TypeSymlink:
		h.Linkname = n.target
	case tar.TypeChar, tar.TypeBlock:
		h.Devmajor, h.Devminor = int64(n.major), int64(n.minor)
	}
	return o.tar.WriteHeader(h)
}

func (o *output) link(name string, n *node) error {
	// Who unpacks a hard link sets the attributes again, so that it must have them all.
	h := header(name, n)
	h.Typeflag = tar.TypeLink
	h.Linkname = o.path(o.first[n])
	return o.tar.WriteHeader(h)
}

func header(name string, n *node) *tar.Header {
	h := &tar.Header{
		Format:  tar.FormatPAX,
		Name:    name,
		Mode:    int64(n.mode),
		Uid:     int(n.uid),
		Gid:     int(n.gid),
		ModTime: time.Unix(0, n.time),
	}
	if len(n.xattrs) > 0 {
		h.PAXRecords = map[string]string{}
		for _, x := range n.xattrs {
			h.PAXRecords[xattrRecord+x.Name] = x.Value
		}
	}
	return h
}

// contents writes the files, whose contents lie in the layer, in the order in which they lie there. It returns the files for which the
// layer must be read again.
func (o *output) contents(ctx context.Context, t *Tree, number int32, files []listedFile) (again []listedFile, err error) {
	layer := o.layers[number]
	s, err := openLayer(ctx, t.cache, layer)
	if err != nil {
		return nil, err
	}
	defer s.Close()
	r := tar.NewReader(s)
	buffer := make([]byte, 256<<10)
	for entry := int32(-1); len(files) > 0; {
		f := files[0]
		files = files[1:]
		if f.node.entry == entry {
			again = append(again, f)
			continue
		}
		var h *tar.Header
		for ; entry < f.node.entry; entry++ {
			if h, err = r.Next(); err != nil && !errors.Is(err, tar.ErrInsecurePath) {
				return nil, s.changed(err)
			}
		}
		if h.Typeflag != tar.TypeReg || h.Size != f.node.size {
			return nil, s.changed(fmt.Errorf("entry %q is not what it was", h.Name))
		}
		if err := o.write(o.path(f), f.node); err != nil {
			return nil, err
		}
		if n, err := io.CopyBuffer(struct{ io.Writer }{o.tar}, struct{ io.Reader }{r}, buffer); err != nil {
			return nil, fmt.Errorf("copying %q from layer %s: %w", h.Name, layer.Digest, err)
		} else if n != f.node.size {
			return nil, s.changed(fmt.Errorf("entry %q has %d bytes", h.Name, n))
		}
	}
	return again, nil
}

// changed is the error for a layer that was in order when its index was made.
func (s *stream) changed(err error) error {
	if *s.broken != nil {
		err = *s.broken
	}
	return fmt.Errorf("reading layer %s: %w; if its blob in the cache was changed, remove it", s.layer.Digest, err)
}
