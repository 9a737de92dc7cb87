package nodeimage

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"strings"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/opencontainers/go-digest"
	"github.com/tonistiigi/fsutil"

	"github.com/nodeimg/nodeimg/builder"
	"github.com/nodeimg/nodeimg/builder/publish"
	"github.com/nodeimg/nodeimg/dockerfiles"
	"github.com/nodeimg/nodeimg/internal/cache"
	"github.com/nodeimg/nodeimg/internal/cachedimage"
	"github.com/nodeimg/nodeimg/internal/dockerengine"
	"github.com/nodeimg/nodeimg/internal/progress"
	"github.com/nodeimg/nodeimg/preload"
	"github.com/nodeimg/nodeimg/preload/layers"
	"github.com/nodeimg/nodeimg/recipes"
	"github.com/nodeimg/nodeimg/sources"
)

// DefaultEpoch is the time that everything in an image carries unless SOURCE_DATE_EPOCH says otherwise: any fixed time does, and one
// that is not long ago keeps tools quiet that doubt 1970.
var DefaultEpoch = time.Date(2025, time.January, 1, 0, 0, 0, 0, time.UTC)

// Options say how to build and where the result goes.
type Options struct {
	// Cache holds every input.
	Cache *cache.Cache
	// Builder reaches BuildKit; the caller closes it.
	Builder builder.Builder
	// Lock is what the recipe was resolved to with the same cache; nil lets Build resolve it.
	Lock *recipes.Lock
	// Epoch is the time of files and configuration; zero means DefaultEpoch.
	Epoch time.Time
	// NoCache makes BuildKit run every step again.
	NoCache bool
	// Entitlements that build steps may use, for instance security.insecure. The builder must grant them too.
	Entitlements []string
	// InsecureRegistries may be spoken to by plain http.
	InsecureRegistries []string
	// Engine is the Docker Engine for "docker:" images and type=docker outputs; nil when the recipe and the outputs need none.
	Engine *dockerengine.Engine
	// Outputs are where the image is written.
	Outputs []publish.Output
	// Tags are the image's names; Push pushes to each of them.
	Tags []string
	Push bool
}

func (o Options) withDefaults() Options {
	if o.Epoch.IsZero() {
		o.Epoch = DefaultEpoch
	}
	return o
}

// Result is what a build made.
type Result struct {
	// Lock is what the image was built from.
	Lock *recipes.Lock
	// Digest of the image's manifest.
	Digest v1.Hash
	// References are where the image can be found, with digest: pushed names first, then output folders and files.
	References []string
	// Metadata describes the image as in --metadata-file.
	Metadata publish.Metadata
	// Warnings are about what the image can no longer do.
	Warnings []string
}

// Build builds the recipe for its first platform and publishes the image. The error is a *recipes.InputError when the recipe or an
// option has to be changed, and a *StepError when a build step failed.
func Build(ctx context.Context, document *recipes.Document, options Options) (*Result, error) {
	options = options.withDefaults()
	recipe := document.Recipe
	for _, output := range options.Outputs {
		if err := output.Check(recipe.Metadata.Name); err != nil {
			return nil, err
		}
	}
	inputs := SourceOptions(options)
	lock := options.Lock
	if lock == nil {
		var err error
		if lock, err = sources.Resolve(ctx, document, inputs); err != nil {
			return nil, err
		}
	}
	compiled, err := dockerfiles.Compile(recipe, *lock, dockerfiles.PreloadFor(recipe))
	if err != nil {
		return nil, err
	}
	image, err := imageOf(ctx, document, lock, compiled, inputs.Images(document), options)
	if err != nil {
		return nil, err
	}
	return publishImage(ctx, image, lock, recipe.Metadata.Name, baseMounts(options.Cache, lock), options)
}

// imageOf returns the node image, checked against the lock. When the same inputs were built and checked before, it comes from the cache.
func imageOf(ctx context.Context, document *recipes.Document, lock *recipes.Lock, compiled *dockerfiles.Result, images *preload.Sources, options Options) (v1.Image, error) {
	store, err := storeOf(ctx, document.Recipe, lock, compiled, images, options)
	if err != nil {
		return nil, err
	}
	labels, err := dockerfiles.Labels(document.Recipe, *lock)
	if err != nil {
		return nil, err
	}
	node, err := nodeKey(compiled, options.Epoch)
	if err != nil {
		return nil, err
	}
	key, err := imageKey(node, store, labels)
	if err != nil {
		return nil, err
	}
	if image, ok := remembered(options.Cache, key); ok && !options.NoCache {
		step := progress.Start(ctx, "[build] %s, nothing changed", document.Recipe.Metadata.Name)
		step.Cached()
		_ = step.Done(nil)
		return image, nil
	}
	image, err := nodeOf(ctx, node, document, lock, compiled, images, options)
	if err != nil {
		return nil, err
	}
	if image, err = complete(options.Cache, image, lock, store, labels); err != nil {
		return nil, fmt.Errorf("completing the image of %s: %w", document.Recipe.Metadata.Name, err)
	}
	if err := verify(ctx, image, lock, options); err != nil {
		return nil, err
	}
	return remember(options.Cache, key, image)
}

// storeOf makes what nodeimg itself adds to BuildKit's result: with engine direct everything, with engine inner what pulling left out.
func storeOf(ctx context.Context, recipe recipes.Recipe, lock *recipes.Lock, compiled *dockerfiles.Result, images *preload.Sources, options Options) (*store, error) {
	pulled := dockerfiles.PreloadFor(recipe) == dockerfiles.PreloadPull
	if pulled && recipe.Spec.Preload.Layout == recipes.LayoutPacked {
		return newStore(ctx, options.Cache, recipe.Spec.CRI.Name, lock.Images, nil, nil, options.Epoch)
	}
	for _, image := range lock.Images {
		if err := images.Fetch(ctx, image); err != nil {
			return nil, err
		}
	}
	room, err := roomFor(options.Cache, recipe, lock, compiled)
	if err != nil {
		return nil, err
	}
	appended, err := layers.Make(ctx, options.Cache, lock.Images, layers.Options{
		Layout: recipe.Spec.Preload.Layout, MustUnpack: recipe.Spec.CRI.Name.UnpackedOnly(), Max: room, WithoutBlobs: pulled, Epoch: options.Epoch,
	})
	if err != nil {
		return nil, err
	}
	return newStore(ctx, options.Cache, recipe.Spec.CRI.Name, lock.Images, appended, nil, options.Epoch)
}

// roomFor is the number of layers that are left for preloaded images: the base, what the Dockerfile adds and the topmost layer count too.
func roomFor(c *cache.Cache, recipe recipes.Recipe, lock *recipes.Lock, compiled *dockerfiles.Result) (int, error) {
	base, err := cachedimage.Open(c, digest.Digest(lock.Base.Digest))
	if err != nil {
		return 0, err
	}
	manifest, err := base.Manifest()
	if err != nil {
		return 0, fmt.Errorf("reading the base image: %w", err)
	}
	taken := len(manifest.Layers) + compiled.Layers + 1
	room := recipe.Spec.Preload.MaxLayers - taken
	if room < 1 {
		return 0, recipes.InputErrorf("recipe %s: spec.preload.maxLayers is %d, but the node has %d layers without preloaded images; raise it or choose a base with fewer layers",
			recipe.Metadata.Name, recipe.Spec.Preload.MaxLayers, taken)
	}
	return room, nil
}

// verify checks every preloaded image in the result against what was resolved.
func verify(ctx context.Context, image v1.Image, lock *recipes.Lock, options Options) error {
	known := options.Cache
	if options.NoCache {
		known = nil
	}
	step := progress.Start(ctx, "[verify] preloaded images against the lock")
	return step.Done(preload.VerifyImage(ctx, known, image, lock.Images))
}

// SourceOptions are the options under which Build resolves.
func SourceOptions(options Options) sources.Options {
	options = options.withDefaults()
	inputs := sources.Options{Cache: options.Cache, Epoch: options.Epoch, InsecureRegistries: options.InsecureRegistries}
	if options.Engine != nil {
		inputs.Engine = options.Engine
	}
	return inputs
}

// solve lets BuildKit build the compiled Dockerfile into the folder work.
func solve(ctx context.Context, document *recipes.Document, lock *recipes.Lock, compiled *dockerfiles.Result, images *preload.Sources, work string, options Options) error {
	broker, err := preload.Serve(ctx, images, lock.Images)
	if err != nil {
		return err
	}
	defer broker.Close()
	request := builder.Request{
		Name: document.Recipe.Metadata.Name,
		// The files' times stand for their content, so one name for all solves of a recipe is enough.
		Fingerprint: document.Recipe.Metadata.Name,
		Dockerfile:  compiled.Dockerfile,
		Platform:    lock.Platform,
		Contexts:    map[string]fsutil.FS{},
		Layouts:     map[string]builder.Layout{},
		Sockets:     map[string]string{dockerfiles.BrokerSocket: broker.Socket()},
		Epoch:       options.Epoch,
		NoCache:     options.NoCache,
		// Entitlements that no step asks for change nothing.
		Entitlements: options.Entitlements,
		Output:       work,
	}
	for _, c := range compiled.Contexts {
		if c.Layout != "" {
			request.Layouts[c.Name] = builder.Layout{Store: builder.Blobs(options.Cache), Digest: digest.Digest(c.Layout)}
			continue
		}
		request.Contexts[c.Name] = newContextFS(options.Cache, c.Files, options.Epoch)
	}
	if _, err := builder.Solve(ctx, options.Builder, request); err != nil {
		if ctx.Err() == nil {
			// The step only sees that the broker failed; the broker knows why.
			if cause := broker.Err(); cause != nil {
				return fmt.Errorf("preloading images: %w", cause)
			}
		}
		var step *builder.StepError
		if errors.As(err, &step) {
			return newStepError(document, compiled, step)
		}
		return err
	}
	return nil
}

// nodeOf returns what BuildKit makes of the Dockerfile, with its layers compressed. Preloaded images that are appended to it have no part
// in it, so when only those have changed it comes from the cache, where key names it.
func nodeOf(ctx context.Context, key string, document *recipes.Document, lock *recipes.Lock, compiled *dockerfiles.Result, images *preload.Sources, options Options) (v1.Image, error) {
	if image, ok := remembered(options.Cache, key); ok && !options.NoCache {
		step := progress.Start(ctx, "[build] the node of %s, without its images", document.Recipe.Metadata.Name)
		step.Cached()
		_ = step.Done(nil)
		return image, nil
	}
	work, release, err := options.Cache.TempDir("build")
	if err != nil {
		return nil, err
	}
	defer release()
	if err := solve(ctx, document, lock, compiled, images, work, options); err != nil {
		return nil, err
	}
	base, err := cachedimage.Open(options.Cache, digest.Digest(lock.Base.Digest))
	if err != nil {
		return nil, err
	}
	image, err := publish.Recompress(ctx, options.Cache, work, base, func(_ int, history v1.History) bool { return holdsBlobs(history) })
	if err != nil {
		return nil, err
	}
	return remember(options.Cache, key, image)
}

// complete turns BuildKit's result into the node image: labels set, the store on top.
func complete(c *cache.Cache, node v1.Image, lock *recipes.Lock, store *store, labels map[string]string) (v1.Image, error) {
	file, err := node.ConfigFile()
	if err != nil {
		return nil, fmt.Errorf("reading the built image: %w", err)
	}
	config := file.Config.DeepCopy()
	if config.Labels == nil {
		config.Labels = map[string]string{}
	}
	maps.Copy(config.Labels, labels)
	image, err := mutate.Config(node, *config)
	if err != nil {
		return nil, fmt.Errorf("labelling the built image: %w", err)
	}
	pulled, err := pulledLayers(c, image, lock.Images)
	if err != nil {
		return nil, err
	}
	return store.appendTo(image, pulled)
}

// pulledLayers describes the layers that build steps have pulled: one for each image, in the order of the lock (package dockerfiles).
func pulledLayers(c *cache.Cache, image v1.Image, images []recipes.LockedImage) ([]preload.ContentsLayer, error) {
	config, err := image.ConfigFile()
	if err != nil {
		return nil, fmt.Errorf("reading the built image: %w", err)
	}
	var pulled []preload.ContentsLayer
	layer := 0
	for _, entry := range config.History {
		if entry.EmptyLayer {
			continue
		}
		if holdsBlobs(entry) && layer < len(config.RootFS.DiffIDs) && len(pulled) < len(images) {
			blobs, err := preload.Blobs(c, images[len(pulled)])
			if err != nil {
				return nil, err
			}
			contents := preload.ContentsLayer{DiffID: digest.Digest(config.RootFS.DiffIDs[layer].String())}
			for _, blob := range blobs {
				contents.Blobs = append(contents.Blobs, blob.Digest)
			}
			pulled = append(pulled, contents)
		}
		layer++
	}
	return pulled, nil
}

// holdsBlobs tells the layers of preloaded images, whose blobs are compressed already, by the instruction that made them.
func holdsBlobs(history v1.History) bool {
	return strings.HasPrefix(history.CreatedBy, "COPY") && strings.Contains(history.CreatedBy, " "+recipes.StorePath+"/")
}
