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
	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"
	"golang.org/x/sync/errgroup"

	"github.com/nodeimg/nodeimg/internal/cache"
	"github.com/nodeimg/nodeimg/internal/progress"
)

// zstdLevel is the balance of time and size: about what "zstd -3" does.
const zstdLevel = zstd.SpeedDefault

// Recompress returns the only image of an OCI layout with its uncompressed layers compressed by zstd, except those for which keep says
// that they hold bytes that are compressed already. Keep gets the layer's index and its history entry, which is empty when the config
// has none. Layers that are not plain tars stay as they are. The config, and so every diff ID, is unchanged, and the same layers always
// give the same manifest.
//
// Compressed layers lie in the cache, so that a rebuild compresses nothing; kept ones are read from layoutDir, which must outlive the
// image. The error wraps a *cache.DigestError when a layer is not what the config promises.
func Recompress(ctx context.Context, c *cache.Cache, layoutDir string, keep func(layerIndex int, history v1.History) bool) (v1.Image, error) {
	source, err := onlyImage(layoutDir)
	if err != nil {
		return nil, fmt.Errorf("reading the built image in %s: %w", layoutDir, err)
	}
	manifest, err := source.Manifest()
	if err != nil {
		return nil, fmt.Errorf("reading the built image in %s: %w", layoutDir, err)
	}
	config, err := source.ConfigFile()
	if err != nil {
		return nil, fmt.Errorf("reading the built image in %s: %w", layoutDir, err)
	}
	if len(config.RootFS.DiffIDs) != len(manifest.Layers) {
		return nil, fmt.Errorf("reading the built image in %s: it has %d layers and %d diff IDs", layoutDir, len(manifest.Layers), len(config.RootFS.DiffIDs))
	}
	history := layerHistory(config)
	result := &recompressed{cache: c, source: source, manifest: manifest.DeepCopy(), cached: map[v1.Hash]v1.Descriptor{}}
	group, groupCtx := errgroup.WithContext(ctx)
	group.SetLimit(runtime.GOMAXPROCS(0))
	for i, layer := range manifest.Layers {
		var entry v1.History
		if i < len(history) {
			entry = history[i]
		}
		if layer.MediaType != types.OCIUncompressedLayer && layer.MediaType != types.DockerUncompressedLayer || keep(i, entry) {
			continue
		}
		group.Go(func() error {
			descriptor, err := compressLayer(groupCtx, c, source, layer, config.RootFS.DiffIDs[i], fmt.Sprintf("%d/%d", i+1, len(manifest.Layers)))
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
func compressionKey(diffID v1.Hash) string {
	version := "unknown"
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, module := range info.Deps {
			if module.Path == "github.com/klauspost/compress" {
				version = module.Version
			}
		}
	}
	return fmt.Sprintf("zstd-%s-%s-%s", zstdLevel, version, diffID.Hex)
}

// compressLayer makes sure that the layer's compressed form is in the cache and describes it.
func compressLayer(ctx context.Context, c *cache.Cache, img v1.Image, layer v1.Descriptor, diffID v1.Hash, which string) (v1.Descriptor, error) {
	key := compressionKey(diffID)
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
		if fact, err = compress(ctx, c, img, layer, diffID, step); err == nil {
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
	return v1.Descriptor{MediaType: types.OCILayerZStd, Digest: hash, Size: fact.Size, Annotations: layer.Annotations}, nil
}

// compress stores the layer's compressed form in the cache.
func compress(ctx context.Context, c *cache.Cache, img v1.Image, layer v1.Descriptor, diffID v1.Hash, step *progress.Step) (compressedFact, error) {
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
		w.CloseWithError(writeCompressed(ctx, w, in, layer.Size, diffID, step))
	}()
	d, size, err := c.Put(r, "")
	r.CloseWithError(io.ErrClosedPipe)
	<-done
	return compressedFact{Digest: d, Size: size}, err
}

// writeCompressed compresses r to w. One frame, one goroutine and a declared size make the bytes depend on nothing but the input.
func writeCompressed(ctx context.Context, w io.Writer, r io.Reader, size int64, diffID v1.Hash, step *progress.Step) error {
	encoder, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstdLevel), zstd.WithEncoderConcurrency(1))
	if err != nil {
		return err
	}
	encoder.ResetContentSize(w, size)
	hash := sha256.New()
	n, err := copyAll(ctx, encoder, io.TeeReader(r, hash), step.Add)
	if err != nil {
		// Closing would write a frame that looks complete.
		encoder.Reset(nil)
		return err
	}
	// The digest is checked before the frame is complete, so that no wrong layer can look right.
	if got := hex.EncodeToString(hash.Sum(nil)); got != diffID.Hex {
		encoder.Reset(nil)
		return &cache.DigestError{Want: digest.Digest(diffID.String()), Got: digest.NewDigestFromEncoded(digest.SHA256, got), Size: n}
	}
	return encoder.Close()
}

// recompressed is an image with the source's config and with layers in the cache or, where they were kept, in the source.
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
		return &cachedLayer{i.cache, descriptor}, nil
	}
	return i.source.LayerByDigest(h)
}

// cachedLayer is a compressed layer in the cache.
type cachedLayer struct {
	cache      *cache.Cache
	descriptor v1.Descriptor
}

// Digest implements partial.CompressedLayer.
func (l *cachedLayer) Digest() (v1.Hash, error) { return l.descriptor.Digest, nil }

// Size implements partial.CompressedLayer.
func (l *cachedLayer) Size() (int64, error) { return l.descriptor.Size, nil }

// MediaType implements partial.CompressedLayer.
func (l *cachedLayer) MediaType() (types.MediaType, error) { return l.descriptor.MediaType, nil }

// Descriptor lets the manifest's entry be found without making it up.
func (l *cachedLayer) Descriptor() (*v1.Descriptor, error) { return &l.descriptor, nil }

// Exists tells validation whether the blob is there.
func (l *cachedLayer) Exists() (bool, error) {
	return l.cache.Has(digest.Digest(l.descriptor.Digest.String())), nil
}

// Compressed implements partial.CompressedLayer.
func (l *cachedLayer) Compressed() (io.ReadCloser, error) {
	f, err := l.cache.Open(digest.Digest(l.descriptor.Digest.String()))
	if err != nil {
		return nil, err
	}
	return f, nil
}
