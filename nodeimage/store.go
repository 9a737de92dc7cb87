package nodeimage

import (
	"context"
	"fmt"
	"maps"
	"os"
	"path"
	"slices"
	"strings"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/opencontainers/go-digest"

	"github.com/nodeimg/nodeimg/internal/cache"
	"github.com/nodeimg/nodeimg/preload"
	"github.com/nodeimg/nodeimg/preload/containers"
	"github.com/nodeimg/nodeimg/preload/layers"
	"github.com/nodeimg/nodeimg/preload/trees"
	"github.com/nodeimg/nodeimg/recipes"
)

const (
	// storeComment starts the history entry of the topmost layer, which makes blobs and trees a store; what the runtime wants follows.
	storeComment = "nodeimg: index of the preloaded images and "
	// layerComment starts the history entry of a layer of preloaded images; their names follow.
	layerComment = "nodeimg: preload "
)

// store is what is appended to BuildKit's layers to preload images.
type store struct {
	cri    recipes.CRIName
	images []recipes.LockedImage
	layers []layers.Layer
	// files go into the topmost layer, together with the description of all layers.
	files []file
	epoch time.Time
}

// newStore describes the store of images for the runtime cri. Blobs of the appended layers must be in the cache, of other images manifests and configs.
// Unpacked are snapshots whose trees lie in the node image already.
func newStore(ctx context.Context, c *cache.Cache, cri recipes.CRIName, images []recipes.LockedImage, appended []layers.Layer, unpacked []trees.Snapshot, epoch time.Time) (*store, error) {
	s := &store{cri: cri, images: images, layers: appended, epoch: epoch}
	contents := &preload.Contents{Layers: []preload.ContentsLayer{{Snapshots: unpacked}}}
	for _, layer := range appended {
		contents.Layers = append(contents.Layers, layer.Contents)
	}
	var err error
	if s.files, err = storeFiles(ctx, c, cri, images, contents.Snapshots(), epoch); err != nil {
		return nil, err
	}
	return s, nil
}

// storeFiles are the files that make blobs and trees a store: the OCI layout's index, the images' manifests and configs, and what the
// runtime itself wants to find.
func storeFiles(ctx context.Context, c *cache.Cache, cri recipes.CRIName, images []recipes.LockedImage, unpacked []trees.Snapshot, epoch time.Time) ([]file, error) {
	index, err := preload.Index(images)
	if err != nil {
		return nil, err
	}
	files, err := runtimeFiles(ctx, c, cri, images, unpacked, epoch)
	if err != nil {
		return nil, err
	}
	files = append([]file{
		{path: recipes.StorePath + "/index.json", content: index},
		{path: recipes.StorePath + "/oci-layout", content: []byte(preload.LayoutFile)},
	}, files...)
	seen := map[digest.Digest]bool{}
	for _, image := range images {
		parts, err := preload.ReadParts(c, image)
		if err != nil {
			return nil, err
		}
		for _, d := range []digest.Digest{parts.Target.Digest, parts.Manifest.Digest, parts.Config.Digest} {
			if seen[d] {
				continue
			}
			seen[d] = true
			content, err := os.ReadFile(c.Path(d))
			if err != nil {
				return nil, fmt.Errorf("reading %s of %s: %w", d, image.Reference, err)
			}
			files = append(files, file{path: path.Join(recipes.StorePath, "blobs", d.Algorithm().String(), d.Encoded()), content: content})
		}
	}
	return files, nil
}

// runtimeFiles are the runtime's own records of the images: containerd's databases and the links that its snapshotter wants, and for
// CRI-O an additional image store.
func runtimeFiles(ctx context.Context, c *cache.Cache, cri recipes.CRIName, images []recipes.LockedImage, unpacked []trees.Snapshot, epoch time.Time) ([]file, error) {
	var files []file
	if cri == recipes.CRICRIO {
		list, err := containers.Files(c, images, unpacked, epoch)
		for _, f := range list {
			files = append(files, file{path: recipes.AdditionalStorePath + "/" + f.Path, content: f.Content, link: f.Link})
		}
		var names []string
		for _, image := range images {
			names = append(names, image.Reference)
		}
		// The node links it into /etc/crio/crio.conf.d.
		return append(files, file{path: recipes.AdditionalStorePath + "/pinned.conf", content: containers.Pinned(names)}), err
	}
	state, err := preload.Databases(ctx, c, cri, images, unpacked, epoch)
	if err != nil {
		return nil, err
	}
	files = append(files, file{path: recipes.DatabasesPath + "/meta.db", content: state.Meta}, file{path: recipes.DatabasesPath + "/metadata.db", content: state.Snapshots})
	links := state.Links()
	for _, name := range slices.Sorted(maps.Keys(links)) {
		files = append(files, file{path: recipes.DatabasesPath + "/snapshots/" + name, link: links[name]})
	}
	return files, nil
}

// appendTo puts the store on top of image, some of whose layers hold preloaded images already.
func (s *store) appendTo(image v1.Image, present []preload.ContentsLayer) (v1.Image, error) {
	contents := &preload.Contents{Images: slices.Clone(s.images), Layers: slices.Clone(present)}
	for i := range contents.Images {
		// Where an image came from is no property of what the node holds, and may be a path on somebody's machine.
		contents.Images[i].Source = recipes.ImageSource{}
	}
	var addenda []mutate.Addendum
	for _, layer := range s.layers {
		contents.Layers = append(contents.Layers, layer.Contents)
		comment := layerComment + strings.Join(layer.References, ", ")
		addenda = append(addenda, mutate.Addendum{Layer: layer.Layer, History: v1.History{Created: v1.Time{Time: s.epoch}, CreatedBy: comment}})
	}
	image, err := mutate.Append(image, addenda...)
	if err != nil {
		return nil, fmt.Errorf("appending the layers of preloaded images: %w", err)
	}
	description, err := contents.Marshal()
	if err != nil {
		return nil, err
	}
	files := append(slices.Clone(s.files), file{path: recipes.ContentsPath, content: description})
	comment := storeComment + "containerd's databases"
	if s.cri == recipes.CRICRIO {
		comment = storeComment + "CRI-O's image store"
	}
	return appendLayer(image, files, comment, s.epoch)
}
