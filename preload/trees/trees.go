package trees

import (
	"archive/tar"
	"context"
	"errors"

	"github.com/opencontainers/go-digest"

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

// Tree is a snapshot with its entries.
type Tree struct {
	Snapshot
	// Blob is the layer that the snapshot is for: the last of the chain.
	Blob digest.Digest
}

// UnfitError says why an image cannot be unpacked faithfully; it can still be preloaded packed.
type UnfitError struct{ Reason string }

// Error implements error.
func (e *UnfitError) Error() string { return "cannot be unpacked faithfully: " + e.Reason }

// Plan reads the image's layers, bottom first, and returns the trees of every snapshot that containers of the image need, bottom first; the
// last one is the image's. The error names the layer and the entry of a layer that is not what it claims to be or tries to leave its
// tree, and is an *UnfitError where the image is sound but cannot be unpacked.
func Plan(ctx context.Context, c *cache.Cache, layers []Layer) ([]*Tree, error) {
	return nil, errors.New("not yet")
}

// Write writes the tree's entries below the folder dir, which it names too: directories first, hard links last. The same layers give the
// same entries.
func (t *Tree) Write(ctx context.Context, w *tar.Writer, dir string) error {
	return errors.New("not yet")
}
