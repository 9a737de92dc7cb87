package nodeimage

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/partial"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/opencontainers/go-digest"

	"github.com/nodeimg/nodeimg/dockerfiles"
	"github.com/nodeimg/nodeimg/preload"
	"github.com/nodeimg/nodeimg/recipes"
)

// labelChanges writes into labels what the node image holds now, and how that differs from what it was built with.
func labelChanges(labels map[string]string, present, images []recipes.LockedImage) error {
	text, err := dockerfiles.PreloadedLabel(images)
	if err != nil {
		return err
	}
	labels[recipes.LabelPreloaded] = text
	var before []recipes.Changed
	if text := labels[recipes.LabelChanged]; text != "" {
		if err := json.Unmarshal([]byte(text), &before); err != nil {
			return recipes.InputErrorf("the label %s is damaged: %v", recipes.LabelChanged, err)
		}
	}
	built, now := map[string]string{}, map[string]string{}
	for _, image := range present {
		built[image.Reference] = image.Digest
	}
	for _, entry := range before {
		built[entry.Reference] = entry.Before
	}
	for _, image := range images {
		now[image.Reference] = image.Digest
	}
	references := maps.Clone(built)
	maps.Copy(references, now)
	changed := []recipes.Changed{}
	for _, reference := range slices.Sorted(maps.Keys(references)) {
		if built[reference] != now[reference] {
			changed = append(changed, recipes.Changed{Reference: reference, Before: built[reference], After: now[reference]})
		}
	}
	if len(changed) == 0 {
		delete(labels, recipes.LabelChanged)
		return nil
	}
	encoded, err := json.Marshal(changed)
	if err != nil {
		return fmt.Errorf("encoding label %s: %w", recipes.LabelChanged, err)
	}
	labels[recipes.LabelChanged] = string(encoded)
	return nil
}

// layersSaid returns the history entry of a layer of preloaded images after a change. Where nodeimg wrote it, it names images: those that
// are not among images, which stayed, leave it, and those that were made into the same layer enter it. What a build step wrote names none, and gets the names of the
// images whose layers it holds.
func layersSaid(createdBy string, images []recipes.LockedImage, made, holds []string) string {
	said, ours := strings.CutPrefix(createdBy, layerComment)
	names := slices.Clone(made)
	if ours {
		for name := range strings.SplitSeq(said, ", ") {
			if slices.ContainsFunc(images, func(i recipes.LockedImage) bool { return name == i.Reference || name == i.Reference+"@"+i.Digest }) {
				names = append(names, name)
			}
		}
	}
	if len(names) == 0 {
		names = slices.Clone(holds)
	}
	if len(names) == 0 {
		return createdBy
	}
	slices.Sort(names)
	return layerComment + strings.Join(slices.Compact(names), ", ")
}

// without returns img with another config and without the layers that drop names by index. Nothing is read of the layers.
func without(img v1.Image, config *v1.ConfigFile, drop func(layer int) bool) (v1.Image, error) {
	manifest, err := img.Manifest()
	if err != nil {
		return nil, err
	}
	manifest, config = manifest.DeepCopy(), config.DeepCopy()
	// The store's own layers are of the OCI's kinds, and a manifest does not mix them. The bytes of Docker's are the same.
	manifest.MediaType = types.OCIManifestSchema1
	manifest.Config.MediaType = types.OCIConfigJSON
	all, diffIDs, history := manifest.Layers, config.RootFS.DiffIDs, config.History
	manifest.Layers, config.RootFS.DiffIDs, config.History = []v1.Descriptor{}, []v1.Hash{}, nil
	layer := 0
	for _, entry := range history {
		if entry.EmptyLayer {
			config.History = append(config.History, entry)
			continue
		}
		if !drop(layer) {
			descriptor := all[layer]
			switch descriptor.MediaType {
			case types.DockerLayer:
				descriptor.MediaType = types.OCILayer
			case types.DockerUncompressedLayer:
				descriptor.MediaType = types.OCIUncompressedLayer
			}
			manifest.Layers = append(manifest.Layers, descriptor)
			config.RootFS.DiffIDs = append(config.RootFS.DiffIDs, diffIDs[layer])
			config.History = append(config.History, entry)
		}
		layer++
	}
	r := &reducedImage{source: img}
	if r.config, err = json.Marshal(config); err != nil {
		return nil, fmt.Errorf("writing the config: %w", err)
	}
	if manifest.Config.Digest, manifest.Config.Size, err = v1.SHA256(bytes.NewReader(r.config)); err != nil {
		return nil, err
	}
	if r.manifest, err = json.Marshal(manifest); err != nil {
		return nil, fmt.Errorf("writing the manifest: %w", err)
	}
	return partial.CompressedToImage(r)
}

// reducedImage has layers of source, and its own config.
type reducedImage struct {
	source           v1.Image
	manifest, config []byte
}

// RawConfigFile implements partial.CompressedImageCore.
func (i *reducedImage) RawConfigFile() ([]byte, error) { return i.config, nil }

// MediaType implements partial.CompressedImageCore.
func (i *reducedImage) MediaType() (types.MediaType, error) { return types.OCIManifestSchema1, nil }

// RawManifest implements partial.CompressedImageCore.
func (i *reducedImage) RawManifest() ([]byte, error) { return i.manifest, nil }

// LayerByDigest implements partial.CompressedImageCore.
func (i *reducedImage) LayerByDigest(h v1.Hash) (partial.CompressedLayer, error) {
	return i.source.LayerByDigest(h)
}

// holders names the images all of whose layers lie in the layer.
func holders(layer preload.ContentsLayer, parts map[string]preload.Parts) []string {
	var names []string
	for _, name := range slices.Sorted(maps.Keys(parts)) {
		all := len(parts[name].Layers) > 0
		for _, d := range parts[name].Layers {
			all = all && slices.Contains(layer.Blobs, digest.Digest(d.Digest))
		}
		if all {
			names = append(names, name)
		}
	}
	return names
}
