package layers

import (
	"fmt"
	"slices"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/nodeimg/nodeimg/preload/trees"
	"github.com/nodeimg/nodeimg/recipes"
)

// imageSet makes images for the budget: sizes of their layers by reference. Layers of the same size at the bottom are shared.
type imageSet map[string][]int64

// groups returns what Make would fit into its budget.
func (s imageSet) groups() ([]*group, []recipes.LockedImage) {
	var images []recipes.LockedImage
	for reference := range s {
		images = append(images, recipes.LockedImage{Reference: reference, Role: recipes.RoleUser})
	}
	images = inOrder(images)
	var planned [][]*group
	for _, image := range images {
		var blobs []blob
		var list []tree
		chain := ""
		for _, size := range s[image.Reference] {
			chain += fmt.Sprintf("/%d", size)
			d := digest.FromString(chain)
			blobs = append(blobs, blob{d, size / 3})
			list = append(list, tree{Snapshot: trees.Snapshot{ChainID: d, Size: size}})
		}
		planned = append(planned, partition(blobs, list, false))
	}
	return withoutRepeated(distinct(planned)), images
}

// fitted returns the layers that the set gets.
func (s imageSet) fitted(limit int) ([]*group, []recipes.LockedImage) {
	groups, images := s.groups()
	groups = fit(groups, images, limit)
	sortGroups(groups, images)
	return groups, images
}

const mib = 1 << 20

// sets are images by the trouble that they make. No two layers have the same size unless they are to be shared.
func sets() map[string]imageSet {
	many := imageSet{"registry.example/many:1": nil}
	for i := range int64(130) {
		many["registry.example/many:1"] = append(many["registry.example/many:1"], (5+i)*mib)
	}
	apps, shared, single, both := imageSet{}, imageSet{}, imageSet{}, imageSet{}
	for i := range int64(60) {
		reference := fmt.Sprintf("registry.example/app-%d:1", i)
		apps[reference] = []int64{(100+i)*mib + 1, (200+i)*mib + 2, (5+i)*mib + 3}
		shared[reference] = []int64{100*mib + i/10, 50*mib + i/2, (5+i)*mib + 4}
		both[reference] = shared[reference]
	}
	for i := range int64(200) {
		single[fmt.Sprintf("registry.example/single-%d:1", i)] = []int64{5*mib + i}
	}
	both["registry.example/many:1"] = many["registry.example/many:1"]
	return map[string]imageSet{"130 layers": many, "60 images": apps, "60 images on shared layers": shared, "200 images": single, "60 images and 130 layers": both}
}

func TestBudget(t *testing.T) {
	for name, set := range sets() {
		for _, limit := range []int{1, 2, 3, 10, 80, 1000} {
			t.Run(fmt.Sprintf("%s in %d", name, limit), func(t *testing.T) {
				groups, images := set.fitted(limit)
				if len(groups) > limit {
					t.Errorf("%d layers", len(groups))
				}
				before, _ := set.groups()
				if len(before) >= limit && len(groups) < limit*3/4 {
					t.Errorf("only %d layers of %d", len(groups), limit)
				}
				for _, b := range before {
					checkHeld(t, groups, b, images)
				}
			})
		}
	}
}

// checkHeld wants every piece of the group in a layer that belongs to the images that need it, once at most for each image.
func checkHeld(t *testing.T, groups []*group, wanted *group, images []recipes.LockedImage) {
	t.Helper()
	for _, wantedTree := range wanted.trees {
		for _, user := range wanted.users {
			n := 0
			for _, g := range groups {
				if slices.Contains(g.users, user) && slices.ContainsFunc(g.trees, func(t tree) bool { return t.ChainID == wantedTree.ChainID }) {
					n++
				}
			}
			if n != 1 {
				t.Errorf("%s: snapshot %s is in %d layers", images[user].Reference, wantedTree.ChainID, n)
			}
		}
	}
}

// TestBudgetIsStable adds an image, or a layer, to sets that are over the budget.
func TestBudgetIsStable(t *testing.T) {
	for name, set := range sets() {
		for change, add := range map[string]func(imageSet){
			"another image":           func(s imageSet) { s["registry.example/new:1"] = []int64{33*mib + 5} },
			"another image on a base": func(s imageSet) { s["registry.example/new:1"] = []int64{100 * mib, 50 * mib, 33*mib + 5} },
			"a new version of an image": func(s imageSet) {
				for _, reference := range []string{"registry.example/app-7:1", "registry.example/single-7:1", "registry.example/many:1"} {
					if sizes, ok := s[reference]; ok {
						changed := slices.Clone(sizes)
						changed[len(changed)-1] += 6
						s[reference] = changed
						return
					}
				}
			},
		} {
			t.Run(name+", "+change, func(t *testing.T) {
				before, _ := set.fitted(80)
				later := imageSet{}
				for reference, sizes := range set {
					later[reference] = sizes
				}
				add(later)
				after, _ := later.fitted(80)
				known := map[string]bool{}
				for _, g := range before {
					known[g.key] = true
				}
				var changed int
				for _, g := range after {
					if !known[g.key] {
						changed++
					}
				}
				// The new layer, one that makes room, and one whose place that was.
				if changed == 0 || changed > 4 {
					t.Errorf("%d layers of %d change", changed, len(after))
				}
			})
		}
	}
}

// TestBudgetKeepsTheMostValuable wants what most images share, and what is biggest, in layers of its own.
func TestBudgetKeepsTheMostValuable(t *testing.T) {
	set := imageSet{"registry.example/giant:1": []int64{2000 * mib}}
	for i := range int64(50) {
		set[fmt.Sprintf("registry.example/app-%d:1", i)] = []int64{100 * mib, (5+i)*mib + 1}
	}
	groups, _ := set.fitted(10)
	for _, want := range []int64{2000 * mib, 100 * mib} {
		own := slices.ContainsFunc(groups, func(g *group) bool { return len(g.trees) == 1 && g.trees[0].Size == want })
		if !own {
			t.Errorf("the layer of %d MiB has none of its own", want/mib)
		}
	}
}

func TestRepository(t *testing.T) {
	for reference, want := range map[string]string{
		"registry.example/app:1":                "registry.example/app",
		"registry.example:5000/app":             "registry.example:5000/app",
		"registry.example:5000/app:1":           "registry.example:5000/app",
		"registry.example/app@sha256:abc":       "registry.example/app",
		"registry.example:5000/a/b:1@sha256:ab": "registry.example:5000/a/b",
	} {
		if got := repository(reference); got != want {
			t.Errorf("%s: got %s, want %s", reference, got, want)
		}
	}
}
