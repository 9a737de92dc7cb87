package cluster

import (
	"archive/tar"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/opencontainers/go-digest"

	"github.com/nodeimg/nodeimg/internal/cache"
	"github.com/nodeimg/nodeimg/preload/containers"
	"github.com/nodeimg/nodeimg/preload/trees"
	"github.com/nodeimg/nodeimg/recipes"
)

// What package dockerfiles puts into nodes with CRI-O.
const (
	// loadedImages is the program that shows and replaces the store of loaded images.
	loadedImages = "/usr/lib/nodeimg/loaded-images.sh"
	// loadedTrees is the folder of their trees.
	loadedTrees = "/var/lib/nodeimg/images/trees"
	// exitChanged is its exit status when the store is another one than the caller has seen.
	exitChanged = 75
)

// unpacked is an image with the snapshots that its containers need.
type unpacked struct {
	imageContent
	snapshots []trees.Snapshot
}

// unpack reads the layers of the images: CRI-O gets directory trees, because nothing in its nodes could unpack layers into a store.
func unpack(ctx context.Context, c *cache.Cache, images []imageContent) ([]unpacked, error) {
	var list []unpacked
	for _, image := range images {
		planned, err := trees.Plan(ctx, c, layersOf(image))
		unfit, hostile := new(trees.UnfitError), new(trees.HostileError)
		switch {
		case errors.As(err, &unfit):
			return nil, recipes.InputErrorf("loading %s: it %v, and nodes with CRI-O take unpacked images only; use a cluster whose nodes have containerd or Docker", image.Reference, unfit)
		case errors.As(err, &hostile):
			return nil, recipes.InputErrorf("loading %s: %v", image.Reference, err)
		case err != nil:
			return nil, fmt.Errorf("unpacking %s: %w", image.Reference, err)
		}
		u := unpacked{imageContent: image}
		for _, tree := range planned {
			u.snapshots = append(u.snapshots, tree.Snapshot)
		}
		list = append(list, u)
	}
	return list, nil
}

func layersOf(image imageContent) []trees.Layer {
	var list []trees.Layer
	for i, d := range image.parts.Layers {
		list = append(list, trees.Layer{Digest: d.Digest, Size: d.Size, MediaType: d.MediaType, DiffID: image.parts.DiffIDs[i]})
	}
	return list
}

// snapshotsOf are the snapshots of all images, each once.
func snapshotsOf(images []unpacked) []trees.Snapshot {
	var list []trees.Snapshot
	seen := map[digest.Digest]bool{}
	for _, image := range images {
		for _, s := range image.snapshots {
			if !seen[s.ChainID] {
				seen[s.ChainID] = true
				list = append(list, s)
			}
		}
	}
	return list
}

// crioState is what the node's CRI-O has beside what it has pulled itself.
type crioState struct {
	// store is the name of the store of loaded images; loaded are its files.
	store  string
	loaded []containers.File
	// preloaded are the layers of the node image's own store, names those of its images.
	preloaded map[string]bool
	names     []string
	// inUse are the images that containers are made of.
	inUse map[string]bool
}

// readState reads what "loaded-images.sh show" writes.
func readState(r io.Reader) (crioState, error) {
	s := crioState{inUse: map[string]bool{}}
	for in := tar.NewReader(r); ; {
		header, err := in.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return s, err
		}
		content, err := io.ReadAll(in)
		if err != nil {
			return s, err
		}
		rest, loaded := strings.CutPrefix(header.Name, "stores/")
		store, file, _ := strings.Cut(rest, "/")
		switch {
		case loaded && header.Typeflag != tar.TypeDir:
			s.store = store
			s.loaded = append(s.loaded, containers.File{Path: file, Content: content, Link: header.Linkname})
		case header.Name == "overlay-layers/layers.json":
			s.preloaded, err = containers.Layers(content)
		case header.Name == "overlay-images/images.json":
			s.names, err = containers.Names(content)
		case strings.HasPrefix(header.Name, "overlay-containers/"):
			var list []struct{ Image string }
			err = json.Unmarshal(content, &list)
			for _, c := range list {
				s.inUse[c.Image] = true
			}
		}
		if err != nil {
			return s, err
		}
	}
	if s.store == "" || s.preloaded == nil {
		return s, errors.New("it did not show its image stores")
	}
	return s, nil
}

// layers are those that CRI-O finds in the node image or among loaded images.
func (s crioState) layers() (map[string]bool, error) {
	for _, f := range s.loaded {
		if f.Path == "overlay-layers/layers.json" {
			have, err := containers.Layers(f.Content)
			for id := range s.preloaded {
				if have != nil {
					have[id] = true
				}
			}
			return have, err
		}
	}
	return nil, errors.New("its store of loaded images has no layers.json")
}
