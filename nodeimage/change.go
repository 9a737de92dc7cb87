package nodeimage

import (
	"cmp"
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/identity"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/nodeimg/nodeimg/internal/cache"
	"github.com/nodeimg/nodeimg/preload"
	"github.com/nodeimg/nodeimg/preload/layers"
	"github.com/nodeimg/nodeimg/preload/trees"
	"github.com/nodeimg/nodeimg/recipes"
)

// change is what happens to the images of a node image.
type change struct {
	// images are all images afterwards, sorted by reference.
	images []recipes.LockedImage
	// added are those among them that the node image does not hold yet.
	added []recipes.LockedImage
	// removed are the images that go, also those that others of the same name replace.
	removed []recipes.LockedImage
}

// newChange applies removals, by name, and additions to present. The error is a *recipes.InputError.
func newChange(present, add []recipes.LockedImage, remove []string) (*change, error) {
	var problems []recipes.Problem
	wrong := func(format string, args ...any) {
		problems = append(problems, recipes.Problem{Message: fmt.Sprintf(format, args...)})
	}
	wanted := map[string]recipes.LockedImage{}
	for _, image := range add {
		if other, ok := wanted[image.Reference]; ok && other.Digest != image.Digest {
			wrong("%s is given twice with different digests, %s and %s; leave one out", image.Reference, other.Digest, image.Digest)
			continue
		}
		wanted[image.Reference] = image
	}
	gone := map[string]bool{}
	for _, name := range remove {
		image, err := named(present, name)
		if err != nil {
			wrong("--remove %s: %v", name, err)
			continue
		}
		switch _, again := wanted[image.Reference]; {
		case again:
			wrong("--remove %s: it is also given with -i; -i alone replaces it", name)
		case image.Role == recipes.RoleSandbox:
			wrong("--remove %s: it is the image of the pod sandbox, and without it the node cannot start a single pod; replace it by giving another image of that name with -i", name)
		}
		gone[image.Reference] = true
	}
	if len(problems) > 0 {
		return nil, recipes.NewInputError(problems...)
	}
	c := &change{}
	held := map[string]bool{}
	for _, image := range present {
		held[image.Digest] = true
		switch replacement, replaced := wanted[image.Reference]; {
		case gone[image.Reference]:
			c.removed = append(c.removed, image)
		case replaced && replacement.Digest != image.Digest:
			// Who takes the place of a part of Kubernetes is one.
			replacement.Role = image.Role
			wanted[image.Reference] = replacement
			c.removed = append(c.removed, image)
		default:
			c.images = append(c.images, image)
			delete(wanted, image.Reference)
		}
	}
	for _, image := range wanted {
		c.images = append(c.images, image)
		if !held[image.Digest] {
			c.added = append(c.added, image)
		}
	}
	for _, list := range [][]recipes.LockedImage{c.images, c.added, c.removed} {
		slices.SortFunc(list, func(a, b recipes.LockedImage) int { return cmp.Compare(a.Reference, b.Reference) })
	}
	return c, nil
}

// named finds the image that a user calls name: by its full name, or as docker shortens it.
func named(images []recipes.LockedImage, name string) (recipes.LockedImage, error) {
	full := name
	if parsed, err := reference.ParseNormalizedNamed(name); err == nil {
		full = reference.TagNameOnly(parsed).String()
	}
	var names []string
	for _, image := range images {
		// A name with a digest means the image that has it.
		if image.Reference == name || image.Reference == full || image.Reference+"@"+image.Digest == full {
			return image, nil
		}
		names = append(names, image.Reference)
	}
	if len(names) == 0 {
		return recipes.LockedImage{}, fmt.Errorf("the node image holds no images")
	}
	suggestion := recipes.DidYouMean(full, names)
	if suggestion == "" {
		suggestion = "; it holds " + strings.Join(names, ", ")
	}
	return recipes.LockedImage{}, fmt.Errorf("the node image does not hold it%s", suggestion)
}

// stock is what layers hold for images.
type stock struct {
	blobs     map[digest.Digest]bool
	snapshots map[digest.Digest]bool
}

func newStock() *stock {
	return &stock{blobs: map[digest.Digest]bool{}, snapshots: map[digest.Digest]bool{}}
}

// add counts in what a layer holds.
func (s *stock) add(layer preload.ContentsLayer) {
	for _, blob := range layer.Blobs {
		s.blobs[blob] = true
	}
	for _, snapshot := range layer.Snapshots {
		s.snapshots[snapshot.ChainID] = true
	}
}

// covers says whether nothing is lost without layer.
func (s *stock) covers(layer preload.ContentsLayer) bool {
	for _, blob := range layer.Blobs {
		if !s.blobs[blob] {
			return false
		}
	}
	for _, snapshot := range layer.Snapshots {
		if !s.snapshots[snapshot.ChainID] {
			return false
		}
	}
	return true
}

// only returns the part of what layer holds that s has.
func (s *stock) only(layer preload.ContentsLayer) preload.ContentsLayer {
	part := preload.ContentsLayer{DiffID: layer.DiffID}
	for _, blob := range layer.Blobs {
		if s.blobs[blob] {
			part.Blobs = append(part.Blobs, blob)
		}
	}
	for _, snapshot := range layer.Snapshots {
		if s.snapshots[snapshot.ChainID] {
			part.Snapshots = append(part.Snapshots, snapshot)
		}
	}
	return part
}

func size(layer preload.ContentsLayer) int { return len(layer.Blobs) + len(layer.Snapshots) }

// arrangement says which layers the node image has afterwards.
type arrangement struct {
	// kept are layers that it has already, in their order, with what is needed of them.
	kept []preload.ContentsLayer
	// appended are new.
	appended []layers.Layer
	// dropped are layers that nothing needs any more.
	dropped map[digest.Digest]bool
}

// arrange decides which of the present and the made layers hold the images. A layer of which everything is needed stays; one with
// something that nothing needs goes when the others hold what is needed of it.
func arrange(c *cache.Cache, images []recipes.LockedImage, present []preload.ContentsLayer, made []layers.Layer) (*arrangement, error) {
	present = distinct(present)
	all := &preload.Contents{Layers: slices.Clone(present)}
	again := map[digest.Digest]preload.ContentsLayer{}
	for _, layer := range made {
		all.Layers = append(all.Layers, layer.Contents)
		again[layer.Contents.DiffID] = layer.Contents
	}
	needed, described, err := needs(c, images, all.Snapshots())
	if err != nil {
		return nil, err
	}
	a := &arrangement{dropped: map[digest.Digest]bool{}}
	// The store layer holds manifests and configs, whoever else does.
	sure := newStock()
	sure.blobs = described
	var doubtful []preload.ContentsLayer
	parts := map[digest.Digest]preload.ContentsLayer{}
	for _, layer := range present {
		complete := layer
		if same, ok := again[layer.DiffID]; ok {
			complete = same
		}
		part := needed.only(complete)
		parts[layer.DiffID] = part
		if _, ok := again[layer.DiffID]; ok || size(part) == size(complete) {
			sure.add(part)
		} else {
			doubtful = append(doubtful, part)
		}
	}
	for _, layer := range made {
		_, there := parts[layer.Contents.DiffID]
		if part := needed.only(layer.Contents); !there && !sure.covers(part) {
			layer.Contents = part
			a.appended = append(a.appended, layer)
		}
	}
	for _, layer := range a.appended {
		sure.add(layer.Contents)
	}
	// What only doubtful layers hold keeps them, those that hold most first.
	slices.SortStableFunc(doubtful, func(a, b preload.ContentsLayer) int { return cmp.Compare(size(b), size(a)) })
	for _, layer := range doubtful {
		if sure.covers(layer) {
			a.dropped[layer.DiffID] = true
		}
		sure.add(layer)
	}
	for _, layer := range present {
		if !a.dropped[layer.DiffID] {
			a.kept = append(a.kept, parts[layer.DiffID])
		}
	}
	if !sure.covers(needed.layer()) {
		return nil, fmt.Errorf("the layers do not hold all that the images need; this is a mistake in the node image's %s", recipes.ContentsPath)
	}
	return a, nil
}

// distinct puts what is said about the same layer together: an image that has two names may have been pulled twice.
func distinct(list []preload.ContentsLayer) []preload.ContentsLayer {
	var merged []preload.ContentsLayer
	for _, layer := range list {
		i := slices.IndexFunc(merged, func(other preload.ContentsLayer) bool { return other.DiffID == layer.DiffID })
		if i < 0 {
			merged = append(merged, preload.ContentsLayer{DiffID: layer.DiffID, Blobs: slices.Clone(layer.Blobs), Snapshots: slices.Clone(layer.Snapshots)})
			continue
		}
		for _, blob := range layer.Blobs {
			if !slices.Contains(merged[i].Blobs, blob) {
				merged[i].Blobs = append(merged[i].Blobs, blob)
			}
		}
		for _, snapshot := range layer.Snapshots {
			if !slices.Contains(merged[i].Snapshots, snapshot) {
				merged[i].Snapshots = append(merged[i].Snapshots, snapshot)
			}
		}
	}
	return merged
}

// layer is the stock as if one layer held it.
func (s *stock) layer() preload.ContentsLayer {
	var layer preload.ContentsLayer
	for blob := range s.blobs {
		layer.Blobs = append(layer.Blobs, blob)
	}
	for chain := range s.snapshots {
		layer.Snapshots = append(layer.Snapshots, trees.Snapshot{ChainID: chain})
	}
	return layer
}

// needs returns what the images need of the layers: all their blobs, and of the snapshots those that start from the images' last chain
// ids. Described are the blobs that lie in the store layer anyway.
func needs(c *cache.Cache, images []recipes.LockedImage, snapshots []trees.Snapshot) (needed *stock, described map[digest.Digest]bool, err error) {
	byID := map[digest.Digest]trees.Snapshot{}
	for _, s := range snapshots {
		byID[s.ChainID] = s
	}
	needed, described = newStock(), map[digest.Digest]bool{}
	for _, image := range images {
		parts, err := preload.ReadParts(c, image)
		if err != nil {
			return nil, nil, err
		}
		for _, d := range []ocispec.Descriptor{parts.Target, parts.Manifest, parts.Config} {
			needed.blobs[d.Digest], described[d.Digest] = true, true
		}
		for _, d := range parts.Layers {
			needed.blobs[d.Digest] = true
		}
		chain, err := lastChain(c, parts)
		if err != nil {
			return nil, nil, fmt.Errorf("%s: %w", image.Reference, err)
		}
		for s, ok := byID[chain]; ok && !needed.snapshots[s.ChainID]; s, ok = byID[s.Parent] {
			if _, there := byID[s.Parent]; s.Parent != "" && !there {
				return nil, nil, fmt.Errorf("%s: snapshot %s lies on %s, which no layer holds", image.Reference, s.ChainID, s.Parent)
			}
			needed.snapshots[s.ChainID] = true
		}
	}
	return needed, described, nil
}

// lastChain is the chain id of the image's topmost layer, empty when it has none.
func lastChain(c *cache.Cache, parts preload.Parts) (digest.Digest, error) {
	text, err := os.ReadFile(c.Path(parts.Config.Digest))
	if err != nil {
		return "", fmt.Errorf("reading the config: %w", err)
	}
	var config ocispec.Image
	if err := json.Unmarshal(text, &config); err != nil {
		return "", fmt.Errorf("reading the config %s: %w", parts.Config.Digest, err)
	}
	return identity.ChainID(slices.Clone(config.RootFS.DiffIDs)), nil
}
