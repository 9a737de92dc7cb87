package layers

import (
	"cmp"
	"fmt"
	"hash/fnv"
	"slices"
	"strings"

	"github.com/nodeimg/nodeimg/recipes"
)

// fit joins groups until there are at most limit of them, which must be positive when there are any.
//
// First it joins groups that the same images need, the smallest first: nothing is stored twice by that, and all images keep layers that are
// theirs. When that is not enough, the most valuable groups keep their layers, and the others share what is left.
func fit(groups []*group, images []recipes.LockedImage, limit int) []*group {
	groups = joinSmallest(groups, limit)
	if len(groups) <= limit {
		return groups
	}
	return mix(groups, images, limit)
}

// joinSmallest joins the two smallest groups that the same images need, again and again, until limit is met or each set of images has one
// group. Going one step further for one more layer changes one layer.
func joinSmallest(groups []*group, limit int) []*group {
	classes := map[string][]*group{}
	for _, g := range groups {
		class := fmt.Sprint(g.users)
		classes[class] = append(classes[class], g)
	}
	for _, class := range classes {
		slices.SortFunc(class, smaller)
	}
	for n := len(groups); n > limit; n-- {
		var best string
		for name, class := range classes {
			if len(class) < 2 {
				continue
			}
			if best == "" || cheaper(class, classes[best]) {
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
		at, _ := slices.BinarySearchFunc(class, joined, smaller)
		classes[best] = slices.Insert(class, at, joined)
	}
	var list []*group
	for _, class := range classes {
		list = append(list, class...)
	}
	return list
}

// smaller orders groups by size and, so that the order is always the same, by what they hold.
func smaller(a, b *group) int {
	return cmp.Or(cmp.Compare(a.size, b.size), cmp.Compare(a.key, b.key))
}

// cheaper says whether joining the first two groups of a makes a smaller layer than joining those of b.
func cheaper(a, b []*group) bool {
	sizeA, sizeB := a[0].size+a[1].size, b[0].size+b[1].size
	if sizeA != sizeB {
		return sizeA < sizeB
	}
	return smaller(a[0], b[0]) < 0
}

// mix keeps the groups whose own layers save most and puts the others into mixed ones. All that is one image's own goes into the same one,
// which one its repository decides: neither another image nor a new version changes that.
func mix(groups []*group, images []recipes.LockedImage, limit int) []*group {
	buckets := 1
	for buckets*4 <= limit {
		buckets *= 2
	}
	kept := limit - buckets
	slices.SortFunc(groups, func(a, b *group) int {
		return cmp.Or(cmp.Compare(b.worth(), a.worth()), cmp.Compare(a.key, b.key))
	})
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

// worth is what a layer of the group's own saves, at most, when another image is added or changed: bytes for each image.
func (g *group) worth() int64 { return g.size * int64(len(g.users)) }

// repository is the reference without tag and digest.
func repository(reference string) string {
	reference, _, _ = strings.Cut(reference, "@")
	if colon := strings.LastIndexByte(reference, ':'); colon > strings.LastIndexByte(reference, '/') {
		reference = reference[:colon]
	}
	return reference
}
