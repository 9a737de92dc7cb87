package conformance

import (
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/nodeimg/nodeimg/builder/child"
	"github.com/nodeimg/nodeimg/recipes"
	"github.com/nodeimg/nodeimg/test/conformance/tree"
)

// combination is one way of getting images into a node.
type combination struct {
	cri    recipes.CRIName
	engine recipes.Engine
	layout recipes.Layout
	// runtime runs the builder's steps.
	runtime string
	rows    []row
	seeds   seeds
}

var combinations = []combination{
	{recipes.CRIContainerd, recipes.EngineDirect, recipes.LayoutUnpacked, child.RuntimeRunc, table, fresh},
	{recipes.CRIContainerd, recipes.EngineDirect, recipes.LayoutPacked, child.RuntimeRunc, table, fresh},
	{recipes.CRIContainerd, recipes.EngineInner, recipes.LayoutPacked, child.RuntimeRunc, table, fixed},
	// Trees are made by the same code as with engine direct, and each new image is a pull in the build: a few are enough.
	{recipes.CRIContainerd, recipes.EngineInner, recipes.LayoutUnpacked, child.RuntimeSysbox, some, fresh},
	{recipes.CRIDocker, recipes.EngineDirect, recipes.LayoutUnpacked, child.RuntimeRunc, table, fresh},
	{recipes.CRIDocker, recipes.EngineInner, recipes.LayoutPacked, child.RuntimeRunc, some, fixed},
	{recipes.CRICRIO, recipes.EngineDirect, recipes.LayoutUnpacked, child.RuntimeRunc, fit, fresh},
}

// fit are the rows that can be unpacked, because CRI-O has nothing else.
var fit = slices.DeleteFunc(slices.Clone(table), func(r row) bool { return r.unfit })

// some are rows that need most of what there is: merged and shared trees, attributes, another compression, one that stays packed.
var some = slices.DeleteFunc(slices.Clone(table), func(r row) bool {
	return !slices.Contains([]string{
		"deleted-and-recreated", "opaque-directory", "hard-links-broken-by-deletion", "hard-link-across-layers", "capabilities", "devices", "zstd",
		"platforms", "shared-base-added", "shared-base-deleted",
	}, r.name)
})

func (c combination) name() string {
	return strings.Join([]string{string(c.cri), string(c.engine), string(c.layout), c.runtime}, "-")
}

// seen is what came of one image in a node.
type seen struct {
	tree map[string]tree.Entry
	err  error
	// added are paths that the runtime has put there itself.
	added []string
}

// TestConformance holds that containers see in a node what containerd makes of the same image from the registry.
func TestConformance(t *testing.T) {
	known := mustKnow(t)
	m := openMachine(t)
	for _, c := range combinations {
		t.Run(c.name(), func(t *testing.T) {
			start := time.Now()
			took := func(what string) {
				t.Logf("%s: %.1f s", what, time.Since(start).Seconds())
				start = time.Now()
			}
			if c.runtime == child.RuntimeSysbox {
				startSysbox(t)
			}
			image := m.build(t, c, known.host)
			took("build and load")
			n := m.boot(t, image)
			took("boot")
			view := views[c.cri]
			ready, err := view.ready(t.Context(), n)
			if err != nil {
				t.Fatal(err)
			}
			results := map[string]seen{}
			var mu sync.Mutex
			var group errgroup.Group
			group.SetLimit(4)
			for _, r := range c.rows {
				group.Go(func() error {
					got := view.look(t.Context(), n, c, r)
					mu.Lock()
					defer mu.Unlock()
					results[r.name] = got
					return nil
				})
			}
			_ = group.Wait()
			took("containers")
			for _, r := range c.rows {
				t.Run(r.name, func(t *testing.T) {
					want, err := known.want(r.name, c.seeds)
					if err != nil {
						t.Fatal(err)
					}
					c.check(t, r, want, ready, results[r.name], known.options)
				})
			}
		})
	}
}

// check compares what a container has seen with the reference.
func (c combination) check(t *testing.T, r row, want expected, ready map[string]bool, got seen, options tree.Options) {
	unpacked, listed := ready[r.reference(c.seeds)]
	if !listed {
		t.Fatal("the runtime in the node does not know the image")
	}
	if wanted := c.layout == recipes.LayoutUnpacked && !r.unfit; unpacked != wanted {
		t.Errorf("the image is unpacked before its first container: %v, want %v", unpacked, wanted)
	}
	// A packed image is unpacked by the node's containerd, which refuses what the reference refuses.
	if want.refusal != "" && !unpacked {
		if got.err == nil {
			t.Errorf("a container runs of an image that containerd does not unpack: %s", want.refusal)
		}
		return
	}
	if got.err != nil {
		t.Fatal(got.err)
	}
	for _, path := range got.added {
		delete(want.tree, path)
		delete(got.tree, path)
	}
	for _, line := range tree.Diff(want.tree, got.tree, options) {
		t.Error(line)
	}
}
