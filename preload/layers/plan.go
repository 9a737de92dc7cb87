package layers

import (
	"context"
	"errors"
	"fmt"
	"runtime"

	"golang.org/x/sync/errgroup"

	"github.com/nodeimg/nodeimg/internal/cache"
	"github.com/nodeimg/nodeimg/internal/progress"
	"github.com/nodeimg/nodeimg/preload"
	"github.com/nodeimg/nodeimg/preload/trees"
	"github.com/nodeimg/nodeimg/recipes"
)

// bigEnough is the size in bytes from which on something gets a layer of its own. Less is not worth a request of its own to a registry.
const bigEnough = 4 << 20

// planAll returns the groups of each image, bottom first.
func planAll(ctx context.Context, c *cache.Cache, images []recipes.LockedImage, options Options) ([][]*group, error) {
	planned := make([][]*group, len(images))
	work, workCtx := errgroup.WithContext(ctx)
	work.SetLimit(runtime.GOMAXPROCS(0))
	for i, image := range images {
		work.Go(func() error {
			groups, err := plan(workCtx, c, image, options)
			planned[i] = groups
			return err
		})
	}
	if err := work.Wait(); err != nil {
		return nil, because(ctx, err)
	}
	return planned, nil
}

// because prefers the reason why ctx ended to what came of it.
func because(ctx context.Context, err error) error {
	if cause := context.Cause(ctx); cause != nil && !errors.Is(err, cause) {
		return cause
	}
	return err
}

// plan returns the groups of an image after checking that its layers are what its config promises.
func plan(ctx context.Context, c *cache.Cache, image recipes.LockedImage, options Options) ([]*group, error) {
	parts, err := preload.ReadParts(c, image)
	if err != nil {
		return nil, err
	}
	if len(parts.Layers) == 0 {
		return nil, nil
	}
	var list []tree
	layers := treeLayers(parts)
	if options.Layout != recipes.LayoutPacked {
		var unfit *trees.UnfitError
		list, err = planTrees(ctx, c, layers)
		switch {
		case errors.As(err, &unfit) && options.MustUnpack:
			return nil, recipes.InputErrorf("preloading %s: it %v, and this node's container runtime takes unpacked images only; leave it out, or choose cri containerd or docker, which unpack it in the node", image.Reference, unfit)
		case errors.As(err, &unfit):
			step := progress.Start(ctx, "[preload] %s stays packed", image.Reference)
			step.Log("%s: %v; containerd unpacks it in the node", image.Reference, err)
			_ = step.Done(nil)
			err = nil
		}
	}
	if len(list) == 0 && err == nil && !options.WithoutBlobs {
		err = trees.Verify(ctx, c, layers)
	}
	var hostile *trees.HostileError
	if errors.As(err, &hostile) {
		return nil, recipes.InputErrorf("preloading %s: %v", image.Reference, err)
	}
	if err != nil {
		return nil, fmt.Errorf("preloading %s: %w", image.Reference, err)
	}
	blobs := make([]blob, len(parts.Layers))
	for i, d := range parts.Layers {
		blobs[i] = blob{d.Digest, d.Size}
	}
	return partition(blobs, list, options.WithoutBlobs), nil
}

// planTrees returns the trees of an image.
func planTrees(ctx context.Context, c *cache.Cache, layers []trees.Layer) ([]tree, error) {
	planned, err := trees.Plan(ctx, c, layers)
	if err != nil {
		return nil, err
	}
	list := make([]tree, len(planned))
	for i, t := range planned {
		list[i] = tree{t.Snapshot, layers}
	}
	return list, nil
}

func treeLayers(parts preload.Parts) []trees.Layer {
	var list []trees.Layer
	for i, d := range parts.Layers {
		list = append(list, trees.Layer{Digest: d.Digest, Size: d.Size, MediaType: d.MediaType, DiffID: parts.DiffIDs[i]})
	}
	return list
}

// partition divides what an image needs into groups; blobs are all its layers, and list are the trees of the upper ones. It depends on
// nothing but the image.
//
// A tree and the blob that it was made of stay together. Small ones go with the next ones above, until together they are big enough: an
// image that has the upper ones has the lower ones too, so that nothing is shared less by that, and what a group holds does not
// depend on what lies above it. Blobs without trees are the same wherever they lie, so that big ones are always alone.
func partition(blobs []blob, list []tree, withoutBlobs bool) []*group {
	lower := len(blobs) - len(list)
	if withoutBlobs {
		blobs, lower = nil, 0
	}
	var groups []*group
	small := &group{}
	add := func(blobs []blob, list []tree) {
		small = join(small, newGroup(blobs, list))
		if small.size >= bigEnough {
			groups, small = append(groups, small), &group{}
		}
	}
	for _, b := range blobs[:lower] {
		if b.size >= bigEnough {
			groups = append(groups, newGroup([]blob{b}, nil))
		} else {
			add([]blob{b}, nil)
		}
	}
	for i, t := range list {
		var own []blob
		if !withoutBlobs {
			own = blobs[lower+i : lower+i+1]
		}
		add(own, []tree{t})
	}
	if !small.empty() {
		groups = append(groups, small)
	}
	return groups
}
