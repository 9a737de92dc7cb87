package layers

import (
	"context"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/nodeimg/nodeimg/internal/cache"
	"github.com/nodeimg/nodeimg/preload"
	"github.com/nodeimg/nodeimg/recipes"
)

// Options say what the layers hold.
type Options struct {
	// Layout decides whether trees lie beside the blobs.
	Layout recipes.Layout
	// MustUnpack makes an image an error that cannot be unpacked faithfully, instead of leaving it packed.
	MustUnpack bool
	// Max is the largest number of layers to make.
	Max int
	// WithoutBlobs leaves out the blobs of the images' layers, because other layers of the node image hold them.
	WithoutBlobs bool
	// Epoch is the time of what nodeimg itself adds; the trees keep their own times.
	Epoch time.Time
}

// Layer is one layer of the node image, a gzip layer in the cache.
type Layer struct {
	v1.Layer
	// Contents says what is in it.
	Contents preload.ContentsLayer
	// References of the images that it belongs to, sorted.
	References []string
}

// Make writes the layers that hold the images' own layers, in the order in which they belong into the node image. Manifests, indexes and
// configs are not in them: they go with the store's index into the node image's topmost layer. All blobs must be in the cache. An image
// that cannot be unpacked faithfully stays packed, unless the options forbid that.
//
// Which layers there are for an image is a function of the image and the options alone, as long as no more than options.Max are needed for
// all images; what an equal layer of another image holds already is not made again. Layers that are in the cache are not made again either.
// The error names the image that is not what it claims to be; nothing has been written then.
func Make(ctx context.Context, c *cache.Cache, images []recipes.LockedImage, options Options) ([]Layer, error) {
	images = inOrder(images)
	planned, err := planAll(ctx, c, images, options)
	if err != nil {
		return nil, err
	}
	groups := withoutRepeated(distinct(planned))
	if len(groups) > 0 && options.Max < 1 {
		return nil, recipes.InputErrorf("there is no room for layers of preloaded images; raise spec.preload.maxLayers or choose a base with fewer layers")
	}
	groups = fit(groups, images, options.Max)
	sortGroups(groups, images)
	return writeAll(ctx, c, groups, images, options)
}
