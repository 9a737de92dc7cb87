package publish

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"runtime"
	"runtime/debug"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/partial"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/klauspost/compress/gzip"
	"github.com/opencontainers/go-digest"
	"golang.org/x/sync/errgroup"

	"github.com/nodeimg/nodeimg/internal/cache"
	"github.com/nodeimg/nodeimg/internal/cachedimage"
	"github.com/nodeimg/nodeimg/internal/progress"
)

// The gzip levels: a balance of time and size for a distribution's files, and none for bytes that are compressed already, which then only
// get gzip's frame.
const (
	levelFiles  = 5
	levelPacked = gzip.NoCompression
)

// Recompress returns the only image of an OCI layout with its uncompressed layers as gzip. Layers that base has too are taken from it as
// they are, so that registries that hold the base hold them; base may be nil, and its layers must be in the cache. Layers for which packed
// says that they hold bytes that are compressed already are framed and not compressed again; packed gets the layer's index and its
// history entry, which is empty when the config has none. Layers that are not plain tars stay as they are. The config, and so every diff
// ID, is unchanged, and the same layers always give the same manifest.
//
// It is gzip and not zstd because Docker Engines before 23.0 cannot pull zstd, and go-containerregistry's validation, which people check
// published images with, reads nothing else.
//
// Compressed layers lie in the cache, so that a rebuild compresses nothing; layers that stay are read from layoutDir, which must outlive
// the image. The error wraps a *cache.DigestError when a layer is not what the config promises.
func Recompress(ctx context.Context, c *cache.Cache, layoutDir string, base v1.Image, packed func(layerIndex int, history v1.History) bool) (v1.Image, error) {
	source, err := onlyImage(layoutDir)
	if err != nil {
		return nil, fmt.Errorf("reading the built image in %s: %w", layoutDir, err)
	}
	image, err := RecompressImage(ctx, c, source, base, packed)
	if err != nil {
		return nil, fmt.Errorf("%w (in %s)", err, layoutDir)
	}
	return image, nil
}

// RecompressImage is Recompress for an image that is open already, of which layers that stay are read.
func RecompressImage(ctx context.Context, c *cache.Cache, source, base v1.Image, packed func(layerIndex int, history v1.History) bool) (v1.Image, error) {
	manifest, err := source.Manifest()
	if err != nil {
		return nil, fmt.Errorf("reading the built image: %w", err)
	}
	config, err := source.ConfigFile()
	if err != nil {
		return nil, fmt.Errorf("reading the built image: %w", err)
	}
	if len(config.RootFS.DiffIDs) != len(manifest.Layers) {
		return nil, fmt.Errorf("reading the built image: it has %d layers and %d diff IDs", len(manifest.Layers), len(config.RootFS.DiffIDs))
	}
	history := layerHistory(config)
	known, err := gzipLayers(base)
	if err != nil {
		return nil, fmt.Errorf("reading the base image: %w", err)
	}
	result := &recompressed{cache: c, source: source, manifest: manifest.DeepCopy(), cached: map[v1.Hash]v1.Descriptor{}}
	group, groupCtx := errgroup.WithContext(ctx)
	group.SetLimit(runtime.GOMAXPROCS(0))
	for i, layer := range manifest.Layers {
		var entry v1.History
		if i < len(history) {
			entry = history[i]
		}
		if layer.MediaType != types.OCIUncompressedLayer && layer.MediaType != types.DockerUncompressedLayer {
			continue
		}
		if descriptor, ok := known[config.RootFS.DiffIDs[i]]; ok {
			result.manifest.Layers[i] = descriptor
			continue
		}
		level := levelFiles
		if packed(i, entry) {
			level = levelPacked
		}
		group.Go(func() error {
			descriptor, err := compressLayer(groupCtx, c, source, layer, config.RootFS.DiffIDs[i], level, fmt.Sprintf("%d/%d", i+1, len(manifest.Layers)))
			if err != nil {
				return fmt.Errorf("compressing layer %d (%s): %w", i+1, layer.Digest, err)
			}
			result.manifest.Layers[i] = descriptor
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		if cause := context.Cause(ctx); cause != nil {
			err = cause
		}
		return nil, fmt.Errorf("compressing the built image: %w", err)
	}
	for i, layer := range result.manifest.Layers {
		if layer.Digest != manifest.Layers[i].Digest {
			result.cached[layer.Digest] = layer
		}
	}
	if result.rawManifest, err = json.Marshal(result.manifest); err != nil {
		return nil, fmt.Errorf("writing the manifest: %w", err)
	}
	return partial.CompressedToImage(result)
}

// gzipLayers describes the base's layers that can be used as they are, by diff ID.
func gzipLayers(base v1.Image) (map[v1.Hash]v1.Descriptor, error) {
	known := map[v1.Hash]v1.Descriptor{}
	if base == nil {
		return known, nil
	}
	manifest, err := base.Manifest()
	if err != nil {
		return nil, err
	}
	config, err := base.ConfigFile()
	if err != nil {
		return nil, err
	}
	for i, layer := range manifest.Layers {
		if i < len(config.RootFS.DiffIDs) && (layer.MediaType == types.OCILayer || layer.MediaType == types.DockerLayer) {
			known[config.RootFS.DiffIDs[i]] = v1.Descriptor{MediaType: types.OCILayer, Digest: layer.Digest, Size: layer.Size}
		}
	}
	return known, nil
}

// onlyImage opens the one image of an OCI layout, through an index of one if need be (BuildKit exports one with attestations).
func onlyImage(dir string) (v1.Image, error) {
	index, err := layout.ImageIndexFromPath(dir)
	if err != nil {
		return nil, err
	}
	return onlyImageOf(index)
}

func onlyImageOf(index v1.ImageIndex) (v1.Image, error) {
	manifest, err := index.IndexManifest()
	if err != nil {
		return nil, err
	}
	var found []v1.Descriptor
	for _, entry := range manifest.Manifests {
		// An attestation is marked by this platform (BuildKit docs/attestations/attestation-storage.md).
		if entry.Platform != nil && entry.Platform.OS == "unknown" {
			continue
		}
		if len(found) == 0 || found[0].Digest != entry.Digest {
			found = append(found, entry)
		}
	}
	switch {
	case len(found) != 1:
		return nil, fmt.Errorf("expected one image, found %d", len(found))
	case found[0].MediaType.IsIndex():
		inner, err := index.ImageIndex(found[0].Digest)
		if err != nil {
			return nil, err
		}
		return onlyImageOf(inner)
	default:
		return index.Image(found[0].Digest)
	}
}

// layerHistory returns the history entries that made a layer, in the order of the layers.
func layerHistory(config *v1.ConfigFile) []v1.History {
	var entries []v1.History
	for _, entry := range config.History {
		if !entry.EmptyLayer {
			entries = append(entries, entry)
		}
	}
	return entries
}

// compressedFact is what the cache remembers about an uncompressed layer.
type compressedFact struct {
	Digest digest.Digest `json:"digest"`
	Size   int64         `json:"size"`
}

// compressionKey is a cache key that changes with everything that the compressed bytes depend on.
func compressionKey(diffID v1.Hash, level int) string {
	version := "unknown"
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, module := range info.Deps {
			if module.Path == "github.com/klauspost/compress" {
				version = module.Version
			}
		}
	}
	return fmt.Sprintf("gzip-%d-%s-%s", level, version, diffID.Hex)
}

// compressLayer makes sure that the layer's compressed form is in the cache and describes it.
func compressLayer(ctx context.Context, c *cache.Cache, img v1.Image, layer v1.Descriptor, diffID v1.Hash, level int, which string) (v1.Descriptor, error) {
	key := compressionKey(diffID, level)
	unlock, err := c.Lock(ctx, key)
	if err != nil {
		return v1.Descriptor{}, err
	}
	defer unlock()
	var fact compressedFact
	known, err := c.Fact(key, &fact)
	if err != nil {
		return v1.Descriptor{}, err
	}
	if size, err := c.Size(fact.Digest); !known || err != nil || size != fact.Size {
		step := progress.Start(ctx, "[export] compress layer %s", which)
		step.Total(layer.Size)
		if fact, err = compress(ctx, c, img, layer, diffID, level, step); err == nil {
			err = c.PutFact(key, fact)
		}
		if step.Done(err) != nil {
			return v1.Descriptor{}, err
		}
	}
	hash, err := v1.NewHash(fact.Digest.String())
	if err != nil {
		return v1.Descriptor{}, err
	}
	return v1.Descriptor{MediaType: types.OCILayer, Digest: hash, Size: fact.Size, Annotations: layer.Annotations}, nil
}

// compress stores the layer's compressed form in the cache.
func compress(ctx context.Context, c *cache.Cache, img v1.Image, layer v1.Descriptor, diffID v1.Hash, level int, step *progress.Step) (compressedFact, error) {
	source, err := img.LayerByDigest(layer.Digest)
	if err != nil {
		return compressedFact{}, err
	}
	in, err := source.Compressed()
	if err != nil {
		return compressedFact{}, err
	}
	defer in.Close()
	r, w := io.Pipe()
	done := make(chan struct{})
	go func() {
		defer close(done)
		w.CloseWithError(writeCompressed(ctx, w, in, diffID, level, step))
	}()
	d, size, err := c.Put(r, "")
	r.CloseWithError(io.ErrClosedPipe)
	<-done
	return compressedFact{Digest: d, Size: size}, err
}

// writeCompressed compresses r to w. The header holds neither name nor time, so the bytes depend on nothing but the input.
func writeCompressed(ctx context.Context, w io.Writer, r io.Reader, diffID v1.Hash, level int, step *progress.Step) error {
	encoder, err := gzip.NewWriterLevel(w, level)
	if err != nil {
		return err
	}
	hash := sha256.New()
	n, err := copyAll(ctx, encoder, io.TeeReader(r, hash), step.Add)
	if err != nil {
		// Without Close there is no trailer, and nothing looks complete.
		return err
	}
	if got := hex.EncodeToString(hash.Sum(nil)); got != diffID.Hex {
		return &cache.DigestError{Want: digest.Digest(diffID.String()), Got: digest.NewDigestFromEncoded(digest.SHA256, got), Size: n}
	}
	return encoder.Close()
}

// recompressed is an image with the source's config and with layers in the cache or, where they stay as they are, in the source.
type recompressed struct {
	cache       *cache.Cache
	source      v1.Image
	manifest    *v1.Manifest
	rawManifest []byte
	cached      map[v1.Hash]v1.Descriptor
}

// RawConfigFile implements partial.CompressedImageCore.
func (i *recompressed) RawConfigFile() ([]byte, error) { return i.source.RawConfigFile() }

// MediaType implements partial.CompressedImageCore.
func (i *recompressed) MediaType() (types.MediaType, error) { return i.source.MediaType() }

// RawManifest implements partial.CompressedImageCore.
func (i *recompressed) RawManifest() ([]byte, error) { return i.rawManifest, nil }

// LayerByDigest implements partial.CompressedImageCore.
func (i *recompressed) LayerByDigest(h v1.Hash) (partial.CompressedLayer, error) {
	if descriptor, ok := i.cached[h]; ok {
		return cachedimage.Layer(i.cache, descriptor), nil
	}
	return i.source.LayerByDigest(h)
}
