package builder

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/containerd/containerd/v2/core/content"
	cerrdefs "github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/nodeimg/nodeimg/internal/cache"
)

// Blobs returns a read-only content store over the blobs of c, so that BuildKit reads base images from the cache without another copy
// of them on this side. Everything that would write fails with containerd's ErrNotImplemented.
func Blobs(c *cache.Cache) content.Store { return blobs{cache: c} }

type blobs struct{ cache *cache.Cache }

func (b blobs) Info(_ context.Context, d digest.Digest) (content.Info, error) {
	size, err := b.cache.Size(d)
	if err != nil {
		return content.Info{}, notFound(d, err)
	}
	return content.Info{Digest: d, Size: size}, nil
}

func (b blobs) ReaderAt(_ context.Context, desc ocispec.Descriptor) (content.ReaderAt, error) {
	f, err := b.cache.Open(desc.Digest)
	if err != nil {
		return nil, notFound(desc.Digest, err)
	}
	info, err := f.Stat()
	if err != nil {
		_ = f.Close()
		return nil, fmt.Errorf("opening blob in the cache: %w", err)
	}
	return blob{File: f, size: info.Size()}, nil
}

type blob struct {
	*os.File
	size int64
}

func (b blob) Size() int64 { return b.size }

// notFound gives a missing blob the error class that containerd's protocol carries to BuildKit.
func notFound(d digest.Digest, err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("blob %s is not in the cache: %w", d, cerrdefs.ErrNotFound)
	}
	return err
}

func (blobs) readOnly() error {
	return fmt.Errorf("writing to the cache through BuildKit: %w", cerrdefs.ErrNotImplemented)
}

func (b blobs) Update(context.Context, content.Info, ...string) (content.Info, error) {
	return content.Info{}, b.readOnly()
}
func (b blobs) Walk(context.Context, content.WalkFunc, ...string) error { return b.readOnly() }
func (b blobs) Delete(context.Context, digest.Digest) error             { return b.readOnly() }
func (b blobs) Status(context.Context, string) (content.Status, error) {
	return content.Status{}, b.readOnly()
}
func (b blobs) ListStatuses(context.Context, ...string) ([]content.Status, error) {
	return nil, b.readOnly()
}
func (b blobs) Abort(context.Context, string) error { return b.readOnly() }
func (b blobs) Writer(context.Context, ...content.WriterOpt) (content.Writer, error) {
	return nil, b.readOnly()
}
