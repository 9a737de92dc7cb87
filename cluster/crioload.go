package cluster

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/nodeimg/nodeimg/internal/cache"
	"github.com/nodeimg/nodeimg/internal/dockerengine"
	"github.com/nodeimg/nodeimg/internal/progress"
	"github.com/nodeimg/nodeimg/preload/containers"
	"github.com/nodeimg/nodeimg/preload/trees"
	"github.com/nodeimg/nodeimg/recipes"
)

// crioLoading brings images into one node that runs CRI-O: trees to its volume, and records of them into a store that CRI-O only reads.
type crioLoading struct {
	engine *dockerengine.Engine
	cache  *cache.Cache
	node   Node
	images []unpacked
}

func (l *crioLoading) run(ctx context.Context) (Loaded, error) {
	report := Loaded{Node: l.node.Name}
	step := progress.Start(ctx, "[%s] load %d images", l.node.Name, len(l.images))
	err := step.Done(func() error {
		if shown, err := l.shown(ctx); shown || err != nil {
			report.Present = l.size()
			step.Cached()
			return err
		}
		for {
			state, err := l.state(ctx)
			if err != nil {
				return err
			}
			lacking, err := l.lacking(state)
			if err != nil {
				return err
			}
			report.Present = l.size()
			for _, s := range lacking {
				report.Present -= s.Size
			}
			err = l.replace(ctx, state, lacking, step, &report.Sent)
			if exit := new(dockerengine.ExitError); errors.As(err, &exit) && exit.Status == exitChanged {
				continue
			}
			if err != nil {
				return err
			}
			return l.settle(ctx)
		}
	}())
	return report, err
}

// size is that of all trees.
func (l *crioLoading) size() (sum int64) {
	for _, s := range snapshotsOf(l.images) {
		sum += s.Size
	}
	return sum
}

func (l *crioLoading) state(ctx context.Context) (crioState, error) {
	out, err := l.engine.Exec(ctx, l.node.ID, nil, nil, loadedImages, "show")
	if err != nil {
		return crioState{}, err
	}
	state, err := readState(strings.NewReader(out))
	if err != nil {
		return state, fmt.Errorf("reading what %s shows: %w", loadedImages, err)
	}
	return state, nil
}

// lacking are the snapshots whose trees the node does not have.
func (l *crioLoading) lacking(state crioState) ([]trees.Snapshot, error) {
	have, err := state.layers()
	if err != nil {
		return nil, err
	}
	return slices.DeleteFunc(snapshotsOf(l.images), func(s trees.Snapshot) bool { return have[containers.LayerID(s.ChainID)] }), nil
}

// files are those of the store that the node gets.
func (l *crioLoading) files(state crioState) ([]containers.File, error) {
	var locked []recipes.LockedImage
	for _, image := range l.images {
		locked = append(locked, image.LockedImage)
	}
	folder := func(chain digest.Digest) string {
		if state.preloaded[containers.LayerID(chain)] {
			return recipes.SnapshotsPath + "/" + chain.Encoded()
		}
		return loadedTrees + "/" + chain.Encoded()
	}
	added, err := containers.FilesOver(l.cache, locked, snapshotsOf(l.images), folder, time.Unix(0, 0))
	if err != nil {
		return nil, err
	}
	files, err := containers.Merge(state.loaded, added, func(id string) bool { return state.inUse[id] })
	if err != nil {
		return nil, err
	}
	names := state.names
	for _, f := range files {
		if f.Path == "overlay-images/images.json" {
			loaded, err := containers.Names(f.Content)
			if err != nil {
				return nil, err
			}
			names = append(slices.Clone(names), loaded...)
		}
	}
	return append(files,
		containers.File{Path: "pinned.conf", Content: containers.Pinned(names)},
		// With this the node knows which trees it needs no more.
		containers.File{Path: "trees", Content: []byte(strings.Join(containers.Trees(files, loadedTrees), "\n") + "\n")}), nil
}

// replace sends the trees and a store with the images and those that were loaded before, and counts the bytes.
func (l *crioLoading) replace(ctx context.Context, state crioState, lacking []trees.Snapshot, step *progress.Step, sent *int64) error {
	files, err := l.files(state)
	if err != nil {
		return err
	}
	name := storeName(files)
	if name == state.store {
		return nil
	}
	var total int64
	for _, s := range lacking {
		total += s.Size
	}
	step.Total(total)
	counting := &countingWriter{step: step}
	defer func() { *sent += counting.bytes }()
	return piped(
		func(w io.Writer) error {
			counting.to = w
			return l.write(ctx, counting, files, lacking)
		},
		func(r io.Reader) error {
			_, err := l.engine.Exec(ctx, l.node.ID, r, nil, loadedImages, "take", state.store, name)
			return err
		})
}

// storeName is one that no store with other files has.
func storeName(files []containers.File) string {
	var text strings.Builder
	for _, f := range files {
		fmt.Fprintf(&text, "%q %q %s\n", f.Path, f.Link, digest.FromBytes(f.Content))
	}
	return digest.FromString(text.String()).Encoded()
}

// write writes trees, store, and last what tells that nothing is missing.
func (l *crioLoading) write(ctx context.Context, w io.Writer, files []containers.File, lacking []trees.Snapshot) error {
	out := tar.NewWriter(w)
	wanted := map[digest.Digest]bool{}
	for _, s := range lacking {
		wanted[s.ChainID] = true
	}
	for _, image := range l.images {
		if !slices.ContainsFunc(image.snapshots, func(s trees.Snapshot) bool { return wanted[s.ChainID] }) {
			continue
		}
		// Read anew, one after the other: what is known of an image's files may need much memory.
		planned, err := trees.Plan(ctx, l.cache, layersOf(image.imageContent))
		if err != nil {
			return fmt.Errorf("unpacking %s: %w", image.Reference, err)
		}
		for _, tree := range planned {
			if !wanted[tree.ChainID] {
				continue
			}
			delete(wanted, tree.ChainID)
			if err := tree.Write(ctx, out, path.Join("trees", tree.ChainID.Encoded())); err != nil {
				return err
			}
		}
	}
	for _, f := range files {
		header := &tar.Header{Typeflag: tar.TypeReg, Name: "store/" + f.Path, Mode: 0o600, Size: int64(len(f.Content))}
		if f.Link != "" {
			header.Typeflag, header.Linkname = tar.TypeSymlink, f.Link
		}
		if err := out.WriteHeader(header); err != nil {
			return err
		}
		if _, err := out.Write(f.Content); err != nil {
			return err
		}
	}
	if err := out.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: "whole", Mode: 0o600}); err != nil {
		return err
	}
	return out.Close()
}

// countingWriter counts for the report and for the screen.
type countingWriter struct {
	to    io.Writer
	step  *progress.Step
	bytes int64
}

// Write implements io.Writer.
func (w *countingWriter) Write(p []byte) (int, error) {
	n, err := w.to.Write(p)
	w.bytes += int64(n)
	w.step.Add(int64(n))
	return n, err
}

// shown says whether CRI-O finds the images by each of their names. An image that it has pulled itself counts as well.
func (l *crioLoading) shown(ctx context.Context) (bool, error) {
	for _, image := range l.images {
		names, err := imageStore{plugin: true}.names(image.imageContent)
		if err != nil {
			return false, err
		}
		for _, d := range names {
			id, err := imageID(ctx, l.engine, l.node, imageName(d))
			if exit := new(dockerengine.ExitError); err != nil && !errors.As(err, &exit) {
				return false, err
			}
			if id != image.parts.Config.Digest.Encoded() {
				return false, nil
			}
		}
	}
	return true, nil
}

// settle waits until CRI-O finds the images.
func (l *crioLoading) settle(ctx context.Context) error {
	for _, image := range l.images {
		// A name means an image that CRI-O has pulled itself before any other.
		id, err := imageID(ctx, l.engine, l.node, image.Reference)
		if err != nil || id == image.parts.Config.Digest.Encoded() {
			continue
		}
		if _, err := l.engine.Exec(ctx, l.node.ID, nil, nil, "crictl", "rmi", image.Reference); err != nil {
			return fmt.Errorf("removing the image %s that the node has pulled before under the name %s: %w; delete the pods that use it and load again", id, image.Reference, err)
		}
	}
	return untilEnd(ctx, visibleLimit, errNotVisible, func(ctx context.Context) error {
		shown, err := l.shown(ctx)
		if err == nil && !shown {
			err = errors.New("CRI-O does not show the images; journalctl -u crio in the node may say why")
		}
		return err
	})
}
