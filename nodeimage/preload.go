package nodeimage

import (
	"context"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/distribution/reference"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/opencontainers/go-digest"

	"github.com/nodeimg/nodeimg/builder/publish"
	"github.com/nodeimg/nodeimg/internal/progress"
	"github.com/nodeimg/nodeimg/nodeimage/inspect"
	"github.com/nodeimg/nodeimg/preload"
	"github.com/nodeimg/nodeimg/preload/layers"
	"github.com/nodeimg/nodeimg/recipes"
)

// mostLayers is how many layers a node image can have after a change: storage drivers stop a little above (overlay2 at 128).
const mostLayers = 120

// PreloadOptions say how to change a node image and where the result goes. Of Options, Builder and NoCache are not used, and an Epoch of
// zero means the time that the node image carries.
type PreloadOptions struct {
	Options
	// Platform chooses from a node image for several platforms, as os/arch. It may be empty for one that is for one platform.
	Platform string
	// Layout of the images that are added; empty means unpacked. Others keep theirs.
	Layout recipes.Layout
	// Add are the images to add. One whose name is there already replaces the other.
	Add []recipes.ImageSource
	// Remove are the names of images to remove.
	Remove []string
}

// Preload adds images to the node image that target names (see inspect.Open) and removes images from it, and publishes the result. Of a
// node image in a registry only config, manifest and the small layer on top are read, and with them its own layers are mounted or copied
// by their digest. The error is a *recipes.InputError when the node image cannot be changed, or the images do not fit to it.
func Preload(ctx context.Context, target string, o PreloadOptions) (*Result, error) {
	if len(o.Add) == 0 && len(o.Remove) == 0 {
		return nil, recipes.InputErrorf("nothing to change: name an image to add with -i or one to remove with --remove")
	}
	img, closer, err := openNodeImage(ctx, target, o)
	if err != nil {
		return nil, err
	}
	defer closer.Close()
	report, err := inspect.Image(img, target)
	if err != nil {
		return nil, err
	}
	for _, output := range o.Outputs {
		if err := output.Check(report.Name); err != nil {
			return nil, err
		}
	}
	if o.Epoch.IsZero() {
		o.Epoch = report.Created
	}
	o.Options = o.withDefaults()
	n := &nodeImage{name: target, img: img, report: report, options: o}
	changed, warnings, err := n.change(ctx)
	if err != nil {
		return nil, err
	}
	result, err := publishImage(ctx, changed, nil, report.Name, n.mounts(), o.Options)
	if err != nil {
		return nil, err
	}
	result.Warnings = warnings
	return result, nil
}

// openNodeImage opens the image that target names.
func openNodeImage(ctx context.Context, target string, o PreloadOptions) (v1.Image, io.Closer, error) {
	options := inspect.Options{Platform: o.Platform, NoGuess: true, InsecureRegistries: o.InsecureRegistries, Cache: o.Cache}
	if o.Engine != nil {
		options.Engine = o.Engine
	}
	return inspect.Open(ctx, target, options)
}

// nodeImage is a node image that is changed.
type nodeImage struct {
	name    string
	img     v1.Image
	report  *inspect.Report
	options PreloadOptions

	config   *v1.ConfigFile
	manifest *v1.Manifest
	store    *storeLayer
}

// change returns the node image with other images in it.
func (n *nodeImage) change(ctx context.Context) (v1.Image, []string, error) {
	var err error
	if n.config, err = n.img.ConfigFile(); err != nil {
		return nil, nil, fmt.Errorf("reading the config of %s: %w", n.name, err)
	}
	if n.manifest, err = n.img.Manifest(); err != nil {
		return nil, nil, fmt.Errorf("reading the manifest of %s: %w", n.name, err)
	}
	switch cri := n.cri(); {
	case !slices.Contains([]recipes.CRIName{recipes.CRIContainerd, recipes.CRIDocker, recipes.CRICRIO}, cri):
		return nil, nil, recipes.InputErrorf("%s runs containers with %q, which this version of nodeimg cannot preload images for", n.name, cri)
	case cri.UnpackedOnly() && n.options.Layout == recipes.LayoutPacked:
		return nil, nil, recipes.InputErrorf("--layout %s: %s runs containers with CRI-O, which takes unpacked images only; leave --layout out", recipes.LayoutPacked, n.name)
	}
	if n.store, err = readStoreLayer(ctx, n.options.Cache, n.img, n.name); err != nil {
		return nil, nil, err
	}
	sources := n.sources()
	add, err := n.resolve(ctx, sources)
	if err != nil {
		return nil, nil, err
	}
	change, err := newChange(n.store.contents.Images, add, n.options.Remove)
	if err != nil {
		return nil, nil, err
	}
	for _, image := range change.added {
		if err := sources.Fetch(ctx, image); err != nil {
			return nil, nil, err
		}
	}
	img, arrangement, err := n.apply(ctx, change)
	if err != nil {
		return nil, nil, fmt.Errorf("changing %s: %w", n.name, err)
	}
	step := progress.Start(ctx, "[verify] preloaded images against what was resolved")
	if err := step.Done(verifyChange(ctx, n.options.Cache, img, change.images, arrangement)); err != nil {
		return nil, nil, err
	}
	return img, warnings(change), nil
}

// cri is the node's container runtime.
func (n *nodeImage) cri() recipes.CRIName { return recipes.CRIName(n.report.CRI.Name) }

// sources find images relative to the working directory.
func (n *nodeImage) sources() *preload.Sources {
	s := &preload.Sources{Cache: n.options.Cache, InsecureRegistries: n.options.InsecureRegistries}
	if n.options.Engine != nil {
		s.Engine = n.options.Engine
	}
	return s
}

// resolve finds the images to add, for the node's platform.
func (n *nodeImage) resolve(ctx context.Context, sources *preload.Sources) ([]recipes.LockedImage, error) {
	var found []recipes.LockedImage
	for _, pattern := range n.options.Add {
		list, err := pattern.Expand(".")
		if err != nil {
			return nil, recipes.InputErrorf("-i archive:%s: %v", pattern.Archive, err)
		}
		for _, source := range list {
			images, err := sources.Resolve(ctx, source, n.report.Platform, recipes.RoleUser)
			if err != nil {
				return nil, err
			}
			found = append(found, images...)
		}
	}
	return found, nil
}

// apply makes the new layers and puts the image together.
func (n *nodeImage) apply(ctx context.Context, change *change) (v1.Image, *arrangement, error) {
	c, present := n.options.Cache, n.store.contents.Layers
	made, err := n.newLayers(ctx, change.added)
	if err != nil {
		return nil, nil, err
	}
	arrangement, err := arrange(c, change.images, present, made)
	if err != nil {
		return nil, nil, err
	}
	config, err := n.newConfig(change, arrangement, made)
	if err != nil {
		return nil, nil, err
	}
	base, err := without(n.img, config, func(layer int) bool {
		return layer == n.store.index || arrangement.dropped[digest.Digest(config.RootFS.DiffIDs[layer].String())]
	})
	if err != nil {
		return nil, nil, err
	}
	if base, err = n.compressed(ctx, base); err != nil {
		return nil, nil, err
	}
	kept := &preload.Contents{Layers: arrangement.kept}
	store, err := newStore(ctx, c, n.cri(), change.images, arrangement.appended, kept.Snapshots(), n.options.Epoch)
	if err != nil {
		return nil, nil, err
	}
	img, err := store.appendTo(base, arrangement.kept)
	return img, arrangement, err
}

// newLayers makes the layers of the images.
func (n *nodeImage) newLayers(ctx context.Context, images []recipes.LockedImage) ([]layers.Layer, error) {
	if len(images) == 0 {
		return nil, nil
	}
	layout := n.options.Layout
	if layout == "" {
		layout = recipes.LayoutUnpacked
	}
	// An image that is full already gets one layer more, as long as storage drivers take that.
	room := max(recipes.DefaultMaxLayers-len(n.manifest.Layers), 1)
	if len(n.manifest.Layers)+room > mostLayers {
		return nil, recipes.InputErrorf("%s has %d layers and takes no more; build it again with the images in its recipe", n.name, len(n.manifest.Layers))
	}
	return layers.Make(ctx, n.options.Cache, images, layers.Options{Layout: layout, MustUnpack: n.cri().UnpackedOnly(), Max: room, Epoch: n.options.Epoch})
}

// newConfig is the config with new labels and with a history that names the images that are there.
func (n *nodeImage) newConfig(change *change, arrangement *arrangement, made []layers.Layer) (*v1.ConfigFile, error) {
	config := n.config.DeepCopy()
	config.Config.Labels = maps.Clone(config.Config.Labels)
	if err := labelChanges(config.Config.Labels, n.store.contents.Images, change.images); err != nil {
		return nil, err
	}
	references := map[digest.Digest][]string{}
	for _, layer := range made {
		references[layer.Contents.DiffID] = layer.References
	}
	parts := map[string]preload.Parts{}
	for _, image := range change.images {
		var err error
		if parts[image.Reference], err = preload.ReadParts(n.options.Cache, image); err != nil {
			return nil, err
		}
	}
	kept := map[digest.Digest]preload.ContentsLayer{}
	for _, layer := range arrangement.kept {
		kept[layer.DiffID] = layer
	}
	// A name in the history means an image that was there before.
	same := slices.DeleteFunc(slices.Clone(change.images), func(image recipes.LockedImage) bool {
		return !slices.ContainsFunc(n.store.contents.Images, func(p recipes.LockedImage) bool { return p.Reference == image.Reference && p.Digest == image.Digest })
	})
	layer := 0
	for i, entry := range config.History {
		if entry.EmptyLayer {
			continue
		}
		id := digest.Digest(config.RootFS.DiffIDs[layer].String())
		if contents, ok := kept[id]; ok {
			config.History[i].CreatedBy = layersSaid(entry.CreatedBy, same, references[id], holders(contents, parts))
		}
		layer++
	}
	return config, nil
}

// compressed compresses layers that the Docker Engine or a docker-archive gave out uncompressed, unless they go to an Engine again.
func (n *nodeImage) compressed(ctx context.Context, img v1.Image) (v1.Image, error) {
	needed := n.options.Push
	for _, output := range n.options.Outputs {
		needed = needed || output.Type != publish.OutputDocker
	}
	manifest, err := img.Manifest()
	if err != nil {
		return nil, err
	}
	plain := false
	for _, layer := range manifest.Layers {
		plain = plain || layer.MediaType == types.OCIUncompressedLayer
	}
	if !needed || !plain {
		return img, nil
	}
	holds := map[digest.Digest]bool{}
	for _, layer := range n.store.contents.Layers {
		holds[layer.DiffID] = true
	}
	config, err := img.ConfigFile()
	if err != nil {
		return nil, err
	}
	return publish.RecompressImage(ctx, n.options.Cache, img, nil, func(layer int, _ v1.History) bool {
		return holds[digest.Digest(config.RootFS.DiffIDs[layer].String())]
	})
}

// mounts says that the node image's layers lie in the repository that it was read from.
func (n *nodeImage) mounts() map[v1.Hash]string {
	repository := n.repository()
	if repository == "" {
		return nil
	}
	mounts := map[v1.Hash]string{}
	for _, layer := range n.manifest.Layers {
		mounts[layer.Digest] = repository
	}
	return mounts
}

// repository is where in a registry the node image lies, empty when it does not lie in one.
func (n *nodeImage) repository() string {
	if !inspect.InRegistry(n.name) {
		return ""
	}
	named, err := reference.ParseNormalizedNamed(n.name)
	if err != nil {
		return ""
	}
	return named.Name()
}

// warnings say what does not work any more without the images that were removed.
func warnings(change *change) []string {
	there := map[string]bool{}
	for _, image := range change.images {
		there[image.Reference] = true
	}
	var list []string
	for _, image := range change.removed {
		if there[image.Reference] {
			continue
		}
		var who string
		switch image.Role {
		case recipes.RoleControlPlane, recipes.RoleEtcd, recipes.RoleDNS:
			who = "kubeadm's control plane needs it"
		case recipes.RoleCNI:
			who = "the pod network needs it"
		case recipes.RoleStorage:
			who = "the default StorageClass needs it"
		default:
			continue
		}
		list = append(list, fmt.Sprintf("%s is removed, but %s: such a node pulls it from its registry, or has to do without", image.Reference, who))
	}
	return list
}

// ParseSource reads an image to add as it is written on a command line: archive:FILE, docker:NAME, layout:FOLDER, or else a reference in
// a registry. The error is a *recipes.InputError.
func ParseSource(text string) (recipes.ImageSource, error) {
	kind, value, _ := strings.Cut(text, ":")
	var source recipes.ImageSource
	switch kind {
	case "archive":
		source.Archive = value
	case "docker":
		source.Docker = value
	case "layout":
		source.Layout = value
	default:
		source.Registry, value = text, text
	}
	if info, err := os.Stat(text); source.Registry != "" && err == nil {
		kind = "archive"
		if info.IsDir() {
			kind = "layout"
		}
		return source, recipes.InputErrorf("image %q: there is such a file or folder; write %s:%s for it, or the image's full name for one in a registry", text, kind, filepath.Clean(text))
	}
	if value == "" {
		return source, recipes.InputErrorf("image %q: expected a reference in a registry, archive:FILE, docker:NAME or layout:FOLDER", text)
	}
	return source, nil
}
