package nodeimage

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"path"
	"runtime"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/klauspost/compress/gzip"
	"github.com/opencontainers/go-digest"
	"golang.org/x/sync/errgroup"

	"github.com/nodeimg/nodeimg/internal/cache"
	"github.com/nodeimg/nodeimg/preload"
	"github.com/nodeimg/nodeimg/recipes"
)

// verifyChange reads the new layers of img and checks that they hold what they are said to hold, and that with the layers that were there
// before, which are not read, nothing is missing: those were checked when they were made, and their digests have not changed.
func verifyChange(ctx context.Context, c *cache.Cache, img v1.Image, images []recipes.LockedImage, a *arrangement) error {
	group, groupCtx := errgroup.WithContext(ctx)
	group.SetLimit(runtime.GOMAXPROCS(0))
	for _, layer := range a.appended {
		group.Go(func() error {
			if err := verifyLayer(groupCtx, layer.Layer, layer.Contents); err != nil {
				return fmt.Errorf("verifying the layer of %s: %w", strings.Join(layer.References, ", "), err)
			}
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		return err
	}
	written, err := readStoreLayer(ctx, c, img, "the result")
	if err != nil {
		return fmt.Errorf("verifying the store: %w", err)
	}
	if len(written.contents.Images) != len(images) {
		return fmt.Errorf("verifying the store: it names %d images, not %d", len(written.contents.Images), len(images))
	}
	needed, described, err := needs(c, written.contents.Images, written.contents.Snapshots())
	if err != nil {
		return fmt.Errorf("verifying the store: %w", err)
	}
	there := newStock()
	there.blobs = described
	for _, layer := range written.contents.Layers {
		there.add(layer)
	}
	for i, image := range images {
		if got := written.contents.Images[i]; got.Reference != image.Reference || got.Digest != image.Digest {
			return fmt.Errorf("verifying the store: it has %s@%s in place of %s@%s", got.Reference, got.Digest, image.Reference, image.Digest)
		}
	}
	for blob := range needed.blobs {
		if !there.blobs[blob] {
			return fmt.Errorf("verifying the store: no layer holds the blob %s", blob)
		}
	}
	return nil
}

// verifyLayer reads a layer and compares it with what it is said to hold.
func verifyLayer(ctx context.Context, layer v1.Layer, contents preload.ContentsLayer) error {
	stream, err := layer.Compressed()
	if err != nil {
		return err
	}
	defer stream.Close()
	unzipped, err := gzip.NewReader(stream)
	if err != nil {
		return err
	}
	diffID := digest.SHA256.Digester()
	plain := io.TeeReader(unzipped, diffID.Hash())
	r := tar.NewReader(plain)
	blobs, trees := map[string]bool{}, map[string]bool{}
	for {
		header, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
		if cause := context.Cause(ctx); cause != nil {
			return cause
		}
		name := path.Clean("/" + header.Name)
		if encoded, ok := strings.CutPrefix(name, recipes.StorePath+"/blobs/sha256/"); ok && header.Typeflag == tar.TypeReg {
			got, err := digest.FromReader(r)
			if err != nil {
				return fmt.Errorf("%s: %w", name, err)
			}
			if got.Encoded() != encoded {
				return fmt.Errorf("%s has the digest %s", name, got)
			}
			blobs[encoded] = true
		} else if rest, ok := strings.CutPrefix(name, recipes.SnapshotsPath+"/"); ok && header.Typeflag == tar.TypeDir {
			if chain, fs, _ := strings.Cut(rest, "/"); fs == "fs" {
				trees[chain] = true
			}
		}
	}
	if _, err := io.Copy(io.Discard, plain); err != nil {
		return err
	}
	if got := diffID.Digest(); got != contents.DiffID {
		return fmt.Errorf("its content has the digest %s, not %s", got, contents.DiffID)
	}
	for _, blob := range contents.Blobs {
		if !blobs[blob.Encoded()] {
			return fmt.Errorf("it lacks the blob %s", blob)
		}
	}
	for _, snapshot := range contents.Snapshots {
		if !trees[snapshot.ChainID.Encoded()] {
			return fmt.Errorf("it lacks the tree of %s", snapshot.ChainID)
		}
	}
	return nil
}
