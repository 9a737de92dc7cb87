package nodeimage

import (
	"archive/tar"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/nodeimg/nodeimg/internal/cache"
	"github.com/nodeimg/nodeimg/internal/progress"
	"github.com/nodeimg/nodeimg/preload"
	"github.com/nodeimg/nodeimg/recipes"
)

// What is read of a store layer is bounded, because the image may come from anywhere: the largest file, and all of them, in bytes.
const (
	maxStoreFile  = 64 << 20
	maxStoreLayer = 512 << 20
)

// storeLayer is the topmost layer that nodeimg wrote.
type storeLayer struct {
	// index of the layer among the image's.
	index    int
	contents *preload.Contents
}

// findStoreLayer returns the index of the layer that describes the store, -1 when there is none.
func findStoreLayer(config *v1.ConfigFile) int {
	found, layer := -1, 0
	for _, entry := range config.History {
		if entry.EmptyLayer {
			continue
		}
		if strings.HasPrefix(entry.CreatedBy, storeComment) {
			found = layer
		}
		layer++
	}
	if layer != len(config.RootFS.DiffIDs) {
		return -1
	}
	return found
}

// readStoreLayer reads from the node image img, which name calls, only its store layer. Manifests and configs of the preloaded images are
// in the cache afterwards. The error is a *recipes.InputError when the image has no such layer or its content does not agree with itself.
func readStoreLayer(ctx context.Context, c *cache.Cache, img v1.Image, name string) (*storeLayer, error) {
	config, err := img.ConfigFile()
	if err != nil {
		return nil, fmt.Errorf("reading the config of %s: %w", name, err)
	}
	manifest, err := img.Manifest()
	if err != nil {
		return nil, fmt.Errorf("reading the manifest of %s: %w", name, err)
	}
	s := &storeLayer{index: findStoreLayer(config)}
	if s.index < 0 || len(manifest.Layers) != len(config.RootFS.DiffIDs) {
		return nil, recipes.InputErrorf("%s has no layer in which nodeimg describes its preloaded images: it was squashed or changed by another tool; build it again with nodeimg build", name)
	}
	layer, err := img.LayerByDigest(manifest.Layers[s.index].Digest)
	if err != nil {
		return nil, fmt.Errorf("reading the store of %s: %w", name, err)
	}
	step := progress.Start(ctx, "[read] store of %s", name)
	step.Total(manifest.Layers[s.index].Size)
	files, err := storeTexts(ctx, c, layer)
	if err != nil {
		return nil, step.Done(fmt.Errorf("reading the store of %s: %w", name, err))
	}
	step.Add(manifest.Layers[s.index].Size)
	return s, step.Done(s.parse(c, files, config, name))
}

// storeTexts returns contents.json and index.json by their paths, and puts the blobs into the cache.
func storeTexts(ctx context.Context, c *cache.Cache, layer v1.Layer) (map[string][]byte, error) {
	stream, err := layer.Uncompressed()
	if err != nil {
		return nil, err
	}
	defer stream.Close()
	files := map[string][]byte{}
	limited := io.LimitReader(stream, maxStoreLayer)
	r := tar.NewReader(limited)
	for {
		header, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, err
		}
		if cause := context.Cause(ctx); cause != nil {
			return nil, cause
		}
		name := path.Clean("/" + header.Name)
		encoded, blob := strings.CutPrefix(name, recipes.StorePath+"/blobs/sha256/")
		if header.Typeflag != tar.TypeReg || !blob && name != recipes.ContentsPath && name != recipes.StorePath+"/index.json" {
			continue
		}
		if header.Size > maxStoreFile {
			return nil, fmt.Errorf("%s has %d bytes; no description of images is that large", name, header.Size)
		}
		content, err := io.ReadAll(r)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		if !blob {
			files[name] = content
			continue
		}
		if got := digest.FromBytes(content); got.Encoded() != encoded {
			return nil, fmt.Errorf("%s has the digest %s", name, got)
		}
		if _, err := c.PutBytes(content); err != nil {
			return nil, err
		}
	}
	// The layer's own digest is checked where its bytes end.
	if _, err := io.Copy(io.Discard, limited); err != nil {
		return nil, err
	}
	return files, nil
}

// parse reads the description and holds it against the image: nothing in it is believed that config, index and manifests do not confirm.
func (s *storeLayer) parse(c *cache.Cache, files map[string][]byte, config *v1.ConfigFile, name string) error {
	text, ok := files[recipes.ContentsPath]
	if !ok {
		return recipes.InputErrorf("%s was built by a nodeimg that did not yet describe which layer holds what (there is no %s in its topmost layer); build it again with this version", name, recipes.ContentsPath)
	}
	damaged := func(format string, args ...any) error {
		return recipes.InputErrorf("%s is damaged: %s; build it again with nodeimg build", name, fmt.Sprintf(format, args...))
	}
	s.contents = &preload.Contents{}
	if err := json.Unmarshal(text, s.contents); err != nil {
		return damaged("%s: %v", recipes.ContentsPath, err)
	}
	var index ocispec.Index
	if err := json.Unmarshal(files[recipes.StorePath+"/index.json"], &index); err != nil {
		return damaged("%s/index.json: %v", recipes.StorePath, err)
	}
	indexed := map[string]digest.Digest{}
	for _, d := range index.Manifests {
		indexed[d.Annotations[ocispec.AnnotationRefName]] = d.Digest
	}
	if len(indexed) != len(s.contents.Images) {
		return damaged("its index names %d images, %s %d", len(indexed), recipes.ContentsPath, len(s.contents.Images))
	}
	for _, image := range s.contents.Images {
		if indexed[image.Reference].String() != image.Digest {
			return damaged("its index has %q for %s, %s has %q", indexed[image.Reference], image.Reference, recipes.ContentsPath, image.Digest)
		}
		if _, err := preload.ReadParts(c, image); err != nil {
			return damaged("%s: %v", image.Reference, err)
		}
	}
	diffIDs := map[digest.Digest]bool{}
	for _, hash := range config.RootFS.DiffIDs {
		diffIDs[digest.Digest(hash.String())] = true
	}
	for _, layer := range s.contents.Layers {
		if !diffIDs[layer.DiffID] {
			return damaged("%s names a layer %q that it does not have", recipes.ContentsPath, layer.DiffID)
		}
		for _, snapshot := range layer.Snapshots {
			if err := snapshot.ChainID.Validate(); err != nil {
				return damaged("%s names a snapshot %q: %v", recipes.ContentsPath, snapshot.ChainID, err)
			}
		}
	}
	return nil
}
