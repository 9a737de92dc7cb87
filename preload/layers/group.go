package layers

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"

	"github.com/nodeimg/nodeimg/preload/trees"
	"github.com/nodeimg/nodeimg/recipes"
)

// blob is the layer of an image as it lies in the store.
type blob struct {
	digest digest.Digest
	size   int64
}

// tree is a snapshot whose tree lies beside the store. Its entries are not kept in memory: the images of a node may have millions.
type tree struct {
	trees.Snapshot
	// layers of an image whose plan has the tree.
	layers []trees.Layer
}

// group is what one layer of the node image holds.
type group struct {
	// blobs and trees are sorted, each is there once.
	blobs []blob
	trees []tree
	// users are the positions of the images that need the group, ascending.
	users []int
	// place is where the group stands among those of its first user, bottom first.
	place int
	// mixed groups hold what was too much for layers of their own.
	mixed bool
	// size in bytes of what the group holds, uncompressed as far as it is in trees.
	size int64
	// key names all that the group holds, so that groups with one key are the same layer.
	key string
}

func newGroup(blobs []blob, list []tree) *group {
	g := &group{blobs: slices.Clone(blobs), trees: slices.Clone(list)}
	slices.SortFunc(g.blobs, func(a, b blob) int { return cmp.Compare(a.digest, b.digest) })
	g.blobs = slices.CompactFunc(g.blobs, func(a, b blob) bool { return a.digest == b.digest })
	slices.SortFunc(g.trees, func(a, b tree) int { return cmp.Compare(a.ChainID, b.ChainID) })
	g.trees = slices.CompactFunc(g.trees, func(a, b tree) bool { return a.ChainID == b.ChainID })
	var text strings.Builder
	for _, b := range g.blobs {
		fmt.Fprintf(&text, "blob %s\n", b.digest)
		g.size += b.size
	}
	for _, t := range g.trees {
		fmt.Fprintf(&text, "tree %s\n", t.ChainID)
		g.size += t.Size
	}
	g.key = digest.FromString(text.String()).Encoded()
	return g
}

func (g *group) empty() bool { return len(g.blobs) == 0 && len(g.trees) == 0 }

// join returns one group with all that the groups hold.
func join(groups ...*group) *group {
	var blobs []blob
	var list []tree
	var users []int
	for _, g := range groups {
		blobs = append(blobs, g.blobs...)
		list = append(list, g.trees...)
		users = append(users, g.users...)
	}
	slices.Sort(users)
	joined := newGroup(blobs, list)
	joined.users, joined.place = slices.Compact(users), groups[0].place
	return joined
}

// distinct returns each group of the images once, with the images that use it; groups of one image are given bottom first.
func distinct(planned [][]*group) []*group {
	byKey := map[string]*group{}
	var list []*group
	for user, groups := range planned {
		for place, g := range groups {
			known, ok := byKey[g.key]
			if !ok {
				g.users, g.place = []int{user}, place
				byKey[g.key] = g
				list = append(list, g)
			} else if !slices.Contains(known.users, user) {
				known.users = append(known.users, user)
			}
		}
	}
	return list
}

// withoutRepeated leaves out groups that are nothing but one big blob which another group holds beside its tree; no other layer changes by
// that. Small blobs may be there twice, so that an image's layers are the same ones wherever they can be.
func withoutRepeated(groups []*group) []*group {
	holders := map[digest.Digest]*group{}
	for _, g := range groups {
		if len(g.blobs)+len(g.trees) == 1 {
			continue
		}
		for _, b := range g.blobs {
			if holders[b.digest] == nil {
				holders[b.digest] = g
			}
		}
	}
	return slices.DeleteFunc(groups, func(g *group) bool {
		if len(g.blobs) != 1 || len(g.trees) != 0 || g.size < bigEnough || holders[g.blobs[0].digest] == nil {
			return false
		}
		holder := holders[g.blobs[0].digest]
		holder.users = append(holder.users, g.users...)
		slices.Sort(holder.users)
		holder.users = slices.Compact(holder.users)
		return true
	})
}

// inOrder returns each image once, those of the node itself first, because users change theirs more often.
func inOrder(images []recipes.LockedImage) []recipes.LockedImage {
	images = slices.SortedFunc(slices.Values(images), func(a, b recipes.LockedImage) int {
		return cmp.Or(cmp.Compare(rank(a), rank(b)), cmp.Compare(a.Reference, b.Reference), cmp.Compare(a.Manifest, b.Manifest))
	})
	return slices.CompactFunc(images, func(a, b recipes.LockedImage) bool {
		return a.Reference == b.Reference && a.Manifest == b.Manifest
	})
}

// rank is 0 for images of the node itself and 1 for the user's.
func rank(image recipes.LockedImage) int {
	if image.Role == recipes.RoleUser {
		return 1
	}
	return 0
}

// sortGroups puts what changes least often first, because hosts keep layers only as long as all below are the same: what the node's own
// images need, then shared layers, then the image's order; mixed groups are last.
func sortGroups(groups []*group, images []recipes.LockedImage) {
	own := func(g *group) int {
		if len(g.users) > 1 {
			return 0
		}
		return 1
	}
	mixed := func(g *group) int {
		if g.mixed {
			return 1
		}
		return 0
	}
	slices.SortFunc(groups, func(a, b *group) int {
		return cmp.Or(
			cmp.Compare(mixed(a), mixed(b)),
			cmp.Compare(rank(images[a.users[0]]), rank(images[b.users[0]])),
			cmp.Compare(own(a), own(b)),
			cmp.Compare(a.users[0], b.users[0]),
			cmp.Compare(a.place, b.place),
			cmp.Compare(a.key, b.key))
	})
}
