package conformance

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"

	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/pkg/archive"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/opencontainers/go-digest"

	"github.com/nodeimg/nodeimg/internal/cache"
	"github.com/nodeimg/nodeimg/preload/trees"
	"github.com/nodeimg/nodeimg/test/conformance/tree"
)

// TestTrees compares the trees that nodeimg writes with the reference without a node: they are extracted, mounted as containerd would
// mount them, and read. It says in seconds what TestConformance says in minutes, and without what lies between.
func TestTrees(t *testing.T) {
	known := mustKnow(t)
	store, err := cache.Open(filepath.Join(work, "cache"))
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range table {
		t.Run(r.name, func(t *testing.T) {
			got, err := extracted(t.Context(), store, r)
			want := known.rows[r.name]
			if unfit := (*trees.UnfitError)(nil); errors.As(err, &unfit) {
				if !r.unfit {
					t.Errorf("nodeimg does not unpack it: %v", err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if r.unfit {
				t.Error("nodeimg unpacks it; it should not")
			}
			for _, line := range tree.Diff(want.tree, got, known.options) {
				t.Error(line)
			}
		})
	}
}

// extracted is what a container would see of the row's image from the trees that nodeimg writes for it.
func extracted(ctx context.Context, store *cache.Cache, r row) (map[string]tree.Entry, error) {
	image, err := r.single(runtime.GOARCH, fresh)
	if err != nil {
		return nil, err
	}
	layers, err := cachedLayers(store, image)
	if err != nil {
		return nil, err
	}
	planned, err := trees.Plan(ctx, store, layers)
	if err != nil {
		return nil, err
	}
	dir := filepath.Join(work, "trees-"+r.name)
	if err := os.Mkdir(dir, 0o755); err != nil {
		return nil, err
	}
	var lower []string
	for i, p := range planned {
		if i > 0 && p.Parent != "" && p.Parent != planned[i-1].ChainID {
			return nil, fmt.Errorf("the parent of snapshot %s is %s, which is not the one below, %s", p.ChainID, p.Parent, planned[i-1].ChainID)
		}
		if p.Parent == "" {
			lower = nil
		}
		if err := extract(ctx, p, dir); err != nil {
			return nil, err
		}
		// All folders together must fit into one page, so they get short names as in a node.
		short := strconv.Itoa(i)
		if err := os.Symlink(p.ChainID.Encoded(), filepath.Join(dir, short)); err != nil {
			return nil, err
		}
		lower = append([]string{filepath.Join(dir, short, "fs")}, lower...)
	}
	for _, name := range []string{"upper", "work", "seen"} {
		if err := os.Mkdir(filepath.Join(dir, name), 0o755); err != nil {
			return nil, err
		}
	}
	seen := filepath.Join(dir, "seen")
	overlay := mount.Mount{Type: "overlay", Source: "overlay", Options: []string{
		"workdir=" + filepath.Join(dir, "work"), "upperdir=" + filepath.Join(dir, "upper"), "lowerdir=" + strings.Join(lower, ":"),
	}}
	if err := overlay.Mount(seen); err != nil {
		return nil, err
	}
	defer mount.Unmount(seen, 0)
	return dumpOf(ctx, seen)
}

// cachedLayers puts the blobs of the image's layers into the cache.
func cachedLayers(store *cache.Cache, image v1.Image) ([]trees.Layer, error) {
	layers, err := image.Layers()
	if err != nil {
		return nil, err
	}
	var cached []trees.Layer
	for _, l := range layers {
		d, err := l.Digest()
		if err != nil {
			return nil, err
		}
		diffID, err := l.DiffID()
		if err != nil {
			return nil, err
		}
		mediaType, err := l.MediaType()
		if err != nil {
			return nil, err
		}
		blob, err := l.Compressed()
		if err != nil {
			return nil, err
		}
		_, size, err := store.Put(blob, digest.Digest(d.String()))
		if err != nil {
			return nil, err
		}
		cached = append(cached, trees.Layer{
			Digest: digest.Digest(d.String()), Size: size, MediaType: string(mediaType), DiffID: digest.Digest(diffID.String()),
		})
	}
	return cached, nil
}

// extract writes a tree below dir, by way of the tar that a layer of the node image would have.
func extract(ctx context.Context, p *trees.Tree, dir string) error {
	reader, writer := io.Pipe()
	go func() {
		w := tar.NewWriter(writer)
		err := p.Write(ctx, w, p.ChainID.Encoded())
		if err == nil {
			err = w.Close()
		}
		writer.CloseWithError(err)
	}()
	_, err := archive.Apply(ctx, dir, reader)
	_ = reader.Close()
	return err
}
