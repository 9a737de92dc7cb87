package layers

import (
	"cmp"
	"fmt"
	"hash/fnv"
	"math/bits"
	"slices"
	"strings"

	"github.com/nodeimg/nodeimg/recipes"
)

// fit joins groups until there are at most limit of them, which must be positive when there are any.
//
// First it joins groups that the same images need, the smallest first: nothing is stored twice by that, and all images keep layers that are
// theirs. When that is not enough, the most valuable groups keep their layers, and the others share what is left.
func fit(groups []*group, images []recipes.LockedImage, limit int) []*group {
	groups = joinSmallest(groups, images, limit)
	if len(groups) <= limit {
		return groups
	}
	return mix(groups, images, limit)
}

// joinSmallest joins the two smallest groups that the same images need, again and again, until limit is met or each set of images has one
// group. Going one step further for one more layer changes one layer.
func joinSmallest(groups []*group, images []recipes.LockedImage, limit int) []*group {
	classes := map[string][]*group{}
	for _, g := range groups {
		class := fmt.Sprint(g.users)
		classes[class] = append(classes[class], g)
	}
	order := ordering{images}
	for _, class := range classes {
		slices.SortFunc(class, order.smaller)
	}
	for n := len(groups); n > limit; n-- {
		var best string
		for name, class := range classes {
			if len(class) < 2 {
				continue
			}
			if best == "" || order.cheaper(class, classes[best]) {
				best = name
			}
		}
		if best == "" {
			break
		}
		class := classes[best]
		first, second := class[0], class[1]
		if second.place < first.place {
			first, second = second, first
		}
		joined := join(first, second)
		class = class[2:]
		at, _ := slices.BinarySearchFunc(class, joined, order.smaller)
		classes[best] = slices.Insert(class, at, joined)
	}
	var list []*group
	for _, class := range classes {
		list = append(list, class...)
	}
	return list
}

// ordering compares groups by size in powers of two, and then by names. A new version of an image is seldom twice as large or half as
// large, so that it mostly takes the old one's place and other images keep their layers.
type ordering struct{ images []recipes.LockedImage }

func (o ordering) smaller(a, b *group) int {
	return cmp.Or(cmp.Compare(bits.Len64(uint64(a.size)), bits.Len64(uint64(b.size))), o.byName(a, b))
}

// cheaper says whether joining the first two groups of a makes a smaller layer than joining those of b.
func (o ordering) cheaper(a, b []*group) bool {
	sizeA, sizeB := a[0].size+a[1].size, b[0].size+b[1].size
	return cmp.Or(cmp.Compare(bits.Len64(uint64(sizeA)), bits.Len64(uint64(sizeB))), o.byName(a[0], b[0])) < 0
}

// worthier puts first what saves most as a layer of its own when another image is added or changed: bytes for each image.
func (o ordering) worthier(a, b *group) int {
	worth := func(g *group) int { return bits.Len64(uint64(g.size) * uint64(len(g.users))) }
	return cmp.Or(cmp.Compare(worth(b), worth(a)), o.byName(a, b))
}

func (o ordering) byName(a, b *group) int {
	return cmp.Or(
		cmp.Compare(repository(o.images[a.users[0]].Reference), repository(o.images[b.users[0]].Reference)),
		cmp.Compare(a.place, b.place),
		cmp.Compare(a.key, b.key))
}

// mix keeps the groups whose own layers save most and puts the others into mixed ones. All that is one image's own goes into the same one,
// which one its repository decides: neither another image nor a new version changes that.
func mix(groups []*group, images []recipes.LockedImage, limit int) []*group {
	buckets := 1
	for buckets*4 <= limit {
		buckets *= 2
	}
	kept := limit - buckets
	slices.SortFunc(groups, ordering{images}.worthier)
	mixed := make([][]*group, buckets)
	for _, g := range groups[kept:] {
		name := g.key
		if len(g.users) == 1 {
			name = repository(images[g.users[0]].Reference)
		}
		sum := fnv.New32a()
		_, _ = sum.Write([]byte(name))
		bucket := int(sum.Sum32() % uint32(buckets))
		mixed[bucket] = append(mixed[bucket], g)
	}
	list := slices.Clone(groups[:kept])
	for _, bucket := range mixed {
		if len(bucket) > 0 {
			g := join(bucket...)
			g.mixed = len(bucket) > 1
			list = append(list, g)
		}
	}
	return list
}

// repository is the reference without tag and digest.
func repository(reference string) string {
	reference, _, _ = strings.Cut(reference, "@")
	if colon := strings.LastIndexByte(reference, ':'); colon > strings.LastIndexByte(reference, '/') {
		reference = reference[:colon]
	}
	return reference
}
