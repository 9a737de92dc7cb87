package containers

import (
	"crypto/sha256"
	"encoding/base32"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/nodeimg/nodeimg/preload/trees"
)

const (
	// driver is the storage driver that the store is for; its folder has one for each layer (drivers/overlay/overlay.go).
	driver = "overlay"
	// layersFolder holds the layers' records.
	layersFolder = driver + "-layers"
	// linksFolder has a short link to each layer's tree, of which the layers above make their mounts.
	linksFolder = "l"
)

// layerRecord is a layer in layers.json (layers.go, Layer).
type layerRecord struct {
	ID      string    `json:"id"`
	Parent  string    `json:"parent,omitempty"`
	Created time.Time `json:"created"`
	// UncompressedDigest must be there for the size to count (store.go, ImageSize).
	UncompressedDigest digest.Digest `json:"diff-digest"`
	UncompressedSize   int64         `json:"diff-size"`
	// Compression is that of a tar which was not compressed (pkg/archive, Uncompressed).
	Compression int `json:"compression"`
}

// layer is a snapshot as a layer of the store.
type layer struct {
	trees.Snapshot
	// lower are the names of the links of the layers below, topmost first.
	lower []string
}

// LayerID is the id of the layer that a store has of the snapshot. It is not the chain id: of that the library makes the ids of layers that it pulls
// (image/v5/storage/storage_dest.go, layerID), and would put what it pulls later on a tree that may hold more than its own layers.
func LayerID(chain digest.Digest) string {
	return digest.FromString("nodeimg layer " + chain.String()).Encoded()
}

// diffDigest stands for the tar that a layer was made of. It is the digest of no tar: a tree cannot be turned back into the same bytes, and
// a layer that claimed its real diff id would be exported instead of being downloaded when another image is pulled that has it.
func diffDigest(chain digest.Digest) digest.Digest {
	return digest.FromString("nodeimg tree " + chain.String())
}

// linkName is the name of a layer's link: 26 letters and digits as the driver makes them (overlay.go, idLength), but of the layer's id.
func linkName(chain digest.Digest) string {
	sum := sha256.Sum256([]byte("nodeimg link " + chain.String()))
	return base32.StdEncoding.EncodeToString(sum[:])[:26]
}

// layers are those that the images need, parents before children, else by chain id.
func (s *store) layers() ([]layer, error) {
	chains := make([]digest.Digest, 0, len(s.snapshots))
	for chain := range s.snapshots {
		chains = append(chains, chain)
	}
	slices.Sort(chains)
	var list []layer
	lowers := map[digest.Digest][]string{}
	var add func(chain digest.Digest, depth int) error
	add = func(chain digest.Digest, depth int) error {
		if _, done := lowers[chain]; done {
			return nil
		}
		snapshot, ok := s.snapshots[chain]
		if !ok || depth > len(s.snapshots) {
			return fmt.Errorf("snapshot %s is missing or its own parent", chain)
		}
		lower := []string{}
		if snapshot.Parent != "" {
			if err := add(snapshot.Parent, depth+1); err != nil {
				return fmt.Errorf("snapshot %s: %w", chain, err)
			}
			lower = append([]string{linkName(snapshot.Parent)}, lowers[snapshot.Parent]...)
		}
		lowers[chain] = lower
		list = append(list, layer{snapshot, lower})
		return nil
	}
	for _, chain := range chains {
		if err := add(chain, 0); err != nil {
			return nil, err
		}
	}
	return list, nil
}

func (l layer) record(epoch time.Time) layerRecord {
	r := layerRecord{ID: LayerID(l.ChainID), Created: epoch, UncompressedDigest: diffDigest(l.ChainID), UncompressedSize: l.Size}
	if l.Parent != "" {
		r.Parent = LayerID(l.Parent)
	}
	return r
}

// files are what the overlay driver has of the layer; its tree is a link, as that of a layer which lies elsewhere (overlay.go, CreateAs).
func (l layer) files(tree string) []File {
	folder := driver + "/" + LayerID(l.ChainID)
	files := []File{
		{Path: folder + "/diff", Link: tree + "/fs"},
		{Path: folder + "/link", Content: []byte(linkName(l.ChainID))},
		{Path: driver + "/" + linksFolder + "/" + linkName(l.ChainID), Link: "../" + LayerID(l.ChainID) + "/diff"},
	}
	if len(l.lower) > 0 {
		lower := make([]string, len(l.lower))
		for i, name := range l.lower {
			lower[i] = linksFolder + "/" + name
		}
		files = append(files, File{Path: folder + "/lower", Content: []byte(strings.Join(lower, ":"))})
	}
	return files
}
