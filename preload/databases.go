package preload

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/core/metadata"
	"github.com/containerd/containerd/v2/core/remotes/docker"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/nodeimg/nodeimg/internal/cache"
	"github.com/nodeimg/nodeimg/preload/trees"
	"github.com/nodeimg/nodeimg/recipes"
)

// snapshotter is the one that preloaded images are unpacked for.
const snapshotter = "overlayfs"

// State is what containerd has on disk about images that it pulled and unpacked, beside the blobs and the trees themselves.
type State struct {
	// Meta is meta.db, containerd's records of images, blobs and snapshots.
	Meta []byte
	// Snapshots is metadata.db, the overlayfs snapshotter's own records.
	Snapshots []byte
	// Chains names each snapshot by its chain id; the overlayfs snapshotter keeps Chains[i] in the folder of the number i+1.
	Chains []digest.Digest
}

// Links returns the symbolic links that the overlayfs snapshotter needs in place of its folders: target by file name.
func (s *State) Links() map[string]string {
	links := map[string]string{}
	for i, chain := range s.Chains {
		links[strconv.Itoa(i+1)] = recipes.SnapshotsPath + "/" + chain.Encoded()
	}
	return links
}

// Databases returns the state of a containerd through which cri, its own CRI plugin or Docker, has pulled the images, which has unpacked
// those whose last chain id is among unpacked, and has done nothing else. All times in it are epoch. Manifests and configs must be in the
// cache, layers need not. The same images, snapshots and epoch, in any order, give the same bytes. A snapshot's parent that is not in the
// list is an error, and so is a cri that does not keep its images in containerd.
func Databases(ctx context.Context, c *cache.Cache, cri recipes.CRIName, locked []recipes.LockedImage, unpacked []trees.Snapshot, epoch time.Time) (*State, error) {
	client, ok := clients[cri]
	if !ok {
		return nil, fmt.Errorf("writing containerd's databases: %s does not keep images in containerd", cri)
	}
	dir, release, err := c.TempDir("databases")
	if err != nil {
		return nil, fmt.Errorf("writing containerd's databases: %w", err)
	}
	defer release()
	unpack, err := newUnpack(unpacked, filepath.Join(dir, "metadata.db"))
	if err != nil {
		return nil, fmt.Errorf("writing containerd's snapshot database: %w", err)
	}
	defer unpack.records.close()
	state := &State{Chains: unpack.order}
	if state.Meta, err = metaDatabase(ctx, c, client, locked, unpack, epoch, dir); err != nil {
		return nil, fmt.Errorf("writing containerd's image database: %w", err)
	}
	if state.Snapshots, err = unpack.records.finish(ctx, epoch, filepath.Join(dir, "compact-metadata.db")); err != nil {
		return nil, fmt.Errorf("writing containerd's snapshot database: %w", err)
	}
	return state, nil
}

func metaDatabase(ctx context.Context, c *cache.Cache, client client, locked []recipes.LockedImage, unpack *unpack, epoch time.Time, dir string) ([]byte, error) {
	blobs := &lockedBlobs{cache: c, sizes: map[digest.Digest]int64{}}
	db, err := openBolt(filepath.Join(dir, "meta.db"))
	if err != nil {
		return nil, err
	}
	defer db.Close()
	store := metadata.NewDB(db, blobs, map[string]snapshots.Snapshotter{snapshotter: unpack.records})
	if err := store.Init(ctx); err != nil {
		return nil, err
	}
	ctx = namespaces.WithNamespace(ctx, client.namespace)
	for _, image := range sorted(locked) {
		parts, err := record(ctx, blobs, store, client, image)
		if err == nil {
			err = unpack.image(ctx, c, store.ContentStore(), parts)
		}
		if err != nil {
			return nil, fmt.Errorf("%s: %w", image.Reference, err)
		}
	}
	if err := unpack.record(ctx, store.Snapshotter(snapshotter)); err != nil {
		return nil, err
	}
	if err := fixTimes(db, epoch); err != nil {
		return nil, err
	}
	return compact(db, filepath.Join(dir, "compact-meta.db"))
}

// record does what a pull would: a record for every blob, labels by which the garbage collector finds one blob from the other, and the
// names under which the client looks images up.
func record(ctx context.Context, blobs *lockedBlobs, db *metadata.DB, client client, image recipes.LockedImage) (imageParts, error) {
	parts, err := readParts(blobs.cache, image)
	if err != nil {
		return parts, err
	}
	store := db.ContentStore()
	for _, d := range parts.all() {
		blobs.sizes[d.Digest] = d.Size
		if err := recordContent(ctx, store, d); err != nil {
			return parts, err
		}
	}
	sourceLabels, err := docker.AppendDistributionSourceLabel(store, image.Reference)
	if err != nil {
		return parts, err
	}
	children := images.SetChildrenLabels(store, images.ChildrenHandler(store))
	ours := images.HandlerFunc(func(ctx context.Context, d ocispec.Descriptor) ([]ocispec.Descriptor, error) {
		list, err := children(ctx, d)
		if err != nil || !images.IsIndexType(d.MediaType) {
			return list, err
		}
		// The other platforms' manifests keep their labels, as after a pull, but are not here.
		return []ocispec.Descriptor{parts.manifest}, nil
	})
	if err := images.Walk(ctx, images.Handlers(ours, sourceLabels), parts.target); err != nil {
		return parts, err
	}
	names, err := client.names(image, parts)
	if err != nil {
		return parts, err
	}
	records := metadata.NewImageStore(db)
	for _, name := range names {
		target := parts.target
		if strings.HasSuffix(name, "@"+parts.manifest.Digest.String()) {
			target = parts.manifest
		}
		_, err := records.Create(ctx, images.Image{Name: name, Target: target, Labels: client.labels})
		if err != nil && !errdefs.IsAlreadyExists(err) {
			return parts, err
		}
	}
	return parts, nil
}

// lockedBlobs is the part of a content store that recording needs, over the cache: sizes come from the manifests, because layers are only
// measured and need not be there. Every other method of a content store is a nil call, that is a bug.
type lockedBlobs struct {
	content.Store
	cache *cache.Cache
	sizes map[digest.Digest]int64
}

// Info implements content.InfoProvider.
func (b *lockedBlobs) Info(_ context.Context, d digest.Digest) (content.Info, error) {
	size, ok := b.sizes[d]
	if !ok {
		return content.Info{}, fmt.Errorf("blob %s: %w", d, errdefs.ErrNotFound)
	}
	return content.Info{Digest: d, Size: size}, nil
}

// ReaderAt implements content.Provider.
func (b *lockedBlobs) ReaderAt(_ context.Context, d ocispec.Descriptor) (content.ReaderAt, error) {
	f, err := b.cache.Open(d.Digest)
	if err != nil {
		return nil, err
	}
	return &sizedFile{f, d.Size}, nil
}

type sizedFile struct {
	*os.File
	size int64
}

// Size implements content.ReaderAt.
func (f *sizedFile) Size() int64 { return f.size }

// recordContent makes the metadata store adopt a blob that its content store already has.
func recordContent(ctx context.Context, store content.Store, d ocispec.Descriptor) error {
	w, err := store.Writer(ctx, content.WithRef(d.Digest.String()), content.WithDescriptor(ocispec.Descriptor{Digest: d.Digest, Size: d.Size, MediaType: d.MediaType}))
	if errdefs.IsAlreadyExists(err) {
		return nil
	}
	if err != nil {
		return err
	}
	defer w.Close()
	return w.Commit(ctx, d.Size, d.Digest)
}
