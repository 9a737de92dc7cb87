package trees

import (
	"context"
	"errors"
	"fmt"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/identity"
	"golang.org/x/sync/errgroup"

	"github.com/nodeimg/nodeimg/internal/cache"
)

// Layer is one layer of an image; its blob must be in the cache.
type Layer struct {
	// Digest and Size in bytes of the blob, as the manifest names it.
	Digest digest.Digest
	Size   int64
	// MediaType says how the blob is compressed.
	MediaType string
	// DiffID is the digest of the uncompressed tar, as the config names it.
	DiffID digest.Digest
}

// Snapshot is what containerd's overlayfs snapshotter holds for one chain of layers (image specification, "Layer ChainID").
type Snapshot struct {
	// ChainID names the snapshot.
	ChainID digest.Digest `json:"chainID"`
	// Parent is the ChainID of the snapshot below. It is empty at the bottom and where the tree holds everything below it.
	Parent digest.Digest `json:"parent,omitempty"`
	// Size in bytes and number of inodes, as containerd accounts them.
	Size   int64 `json:"size"`
	Inodes int64 `json:"inodes"`
}

// Tree is a snapshot with its entries. The trees of an image share what is known of its files, which lies in memory as long as one of the
// trees is in use.
type Tree struct {
	Snapshot
	// Blob is the layer that the snapshot is for: the last of the chain.
	Blob digest.Digest

	cache  *cache.Cache
	layers []Layer
	// roots are the upper directories that the tree shows as one, topmost first.
	roots stack
}

// Plan reads the image's layers, bottom first, and returns the trees of every snapshot that containers of the image need, bottom first; the
// last one is the image's. Each layer is read once and then never again: what is known of its entries stays in the cache. An image that
// must be refused is a *HostileError, one that is sound but cannot be unpacked an *UnfitError; both name the layer and the entry.
func Plan(ctx context.Context, c *cache.Cache, layers []Layer) ([]*Tree, error) {
	indexes, err := readIndexes(ctx, c, layers)
	if err == nil {
		err = fit(indexes)
	}
	if err != nil {
		return nil, err
	}
	chains := make([]digest.Digest, len(layers))
	for i, layer := range layers {
		chains[i] = layer.DiffID
	}
	chains = identity.ChainIDs(chains)
	var (
		trees  []*Tree
		uppers []*upper // topmost first, as overlayfs wants them
		roots  stack
		costs  work
	)
	for i, layer := range layers {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		u, err := unpack(c, layer, &indexes[i], i, uppers, &costs)
		if err != nil {
			return nil, err
		}
		tree := &Tree{Snapshot: Snapshot{ChainID: chains[i]}, Blob: layer.Digest, cache: c, layers: layers[:i+1], roots: stack{u.root}}
		merged := hides(u.root, roots, false)
		uppers = append([]*upper{u}, uppers...)
		roots = append(stack{u.root}, roots...)
		switch {
		case merged:
			// Whoever needs this snapshot needs none of those below.
			trees, tree.roots = nil, roots
		case i > 0:
			tree.Parent = chains[i-1]
		}
		trees = append(trees, tree)
	}
	for _, tree := range trees {
		listing, err := tree.list()
		if err != nil {
			return nil, err
		}
		tree.Size, tree.Inodes = listing.usage()
	}
	return trees, nil
}

// atOnce is how many layers are decompressed at the same time: more would cost memory before they save time.
const atOnce = 2

// readIndexes reads the indexes of the layers.
func readIndexes(ctx context.Context, c *cache.Cache, layers []Layer) ([]index, error) {
	if len(layers) > MaxLayers {
		return nil, &HostileError{Reason: fmt.Sprintf("the image has %d layers, more than the %d that overlayfs takes", len(layers), MaxLayers)}
	}
	indexes := make([]index, len(layers))
	group, groupCtx := errgroup.WithContext(ctx)
	group.SetLimit(atOnce)
	for i, layer := range layers {
		group.Go(func() (err error) {
			indexes[i], err = readIndex(groupCtx, c, layer)
			if unfit := (*UnfitError)(nil); errors.As(err, &unfit) {
				// Another layer may be worse.
				indexes[i].Unfit, err = unfit.Reason, nil
			}
			return err
		})
	}
	return indexes, group.Wait()
}

// fit checks what must hold for all layers together.
func fit(indexes []index) error {
	names := int64(0)
	for _, x := range indexes {
		if x.Unfit != "" {
			return &UnfitError{Reason: x.Unfit}
		}
		names += x.Names
	}
	if names > MaxNames {
		return &UnfitError{Reason: fmt.Sprintf("the names in it come to more than %d MiB", MaxNames>>20)}
	}
	return nil
}
