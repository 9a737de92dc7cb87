package preload

import (
	"encoding/json"
	"fmt"

	"github.com/opencontainers/go-digest"

	"github.com/nodeimg/nodeimg/preload/trees"
	"github.com/nodeimg/nodeimg/recipes"
)

// Contents says what of a node image's layers holds what, so that images can be added to it and removed from it without reading the
// layers. It lies at recipes.ContentsPath in the topmost layer.
type Contents struct {
	// Images are sorted by reference.
	Images []recipes.LockedImage `json:"images"`
	// Layers that hold preloaded images, in the order of the node image.
	Layers []ContentsLayer `json:"layers"`
}

// ContentsLayer is what one layer of the node image adds to the store.
type ContentsLayer struct {
	// DiffID of the layer.
	DiffID digest.Digest `json:"diffID"`
	// Blobs of the store that lie in the layer.
	Blobs []digest.Digest `json:"blobs,omitempty"`
	// Snapshots whose trees lie in the layer.
	Snapshots []trees.Snapshot `json:"snapshots,omitempty"`
}

// Snapshots returns each snapshot of all layers once, parents before children.
func (c *Contents) Snapshots() []trees.Snapshot {
	byID := map[digest.Digest]trees.Snapshot{}
	var order []digest.Digest
	for _, layer := range c.Layers {
		for _, s := range layer.Snapshots {
			if _, known := byID[s.ChainID]; !known {
				order = append(order, s.ChainID)
			}
			byID[s.ChainID] = s
		}
	}
	var list []trees.Snapshot
	added := map[digest.Digest]bool{}
	var add func(digest.Digest)
	add = func(id digest.Digest) {
		s, known := byID[id]
		if !known || added[id] {
			return
		}
		added[id] = true
		add(s.Parent)
		list = append(list, s)
	}
	for _, id := range order {
		add(id)
	}
	return list
}

// Marshal returns the file's text. The same contents give the same bytes.
func (c *Contents) Marshal() ([]byte, error) {
	b, err := json.MarshalIndent(c, "", " ")
	if err != nil {
		return nil, fmt.Errorf("writing %s: %w", recipes.ContentsPath, err)
	}
	return append(b, '\n'), nil
}
