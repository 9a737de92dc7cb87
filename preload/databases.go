package preload

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/core/metadata"
	"github.com/containerd/containerd/v2/core/remotes/docker"
	"github.com/containerd/containerd/v2/core/snapshots/storage"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/errdefs"
	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	bolt "go.etcd.io/bbolt"

	"github.com/nodeimg/nodeimg/internal/cache"
	"github.com/nodeimg/nodeimg/recipes"
)

const (
	// criNamespace is containerd's namespace for Kubernetes (containerd internal/cri/constants).
	criNamespace = "k8s.io"
	// pageSize of the databases; the build host's own must not show in the bytes, and bolt reads any.
	pageSize = 4096
)

// criLabels mark an image as the CRI plugin's own and keep the kubelet from collecting it (containerd internal/cri/labels).
var criLabels = map[string]string{
	"io.cri-containerd.image":  "managed",
	"io.cri-containerd.pinned": "pinned",
}

// Databases returns containerd's two bolt databases for a node in which nothing but the images exists: meta.db, with the records that a
// pull by the CRI plugin would have left, and the overlayfs snapshotter's metadata.db without snapshots. All times in them are epoch.
// Manifests and configs must be in the cache, layers need not. The same images and epoch give the same bytes.
func Databases(ctx context.Context, c *cache.Cache, locked []recipes.LockedImage, epoch time.Time) (meta, snapshots []byte, err error) {
	dir, release, err := c.TempDir("databases")
	if err != nil {
		return nil, nil, fmt.Errorf("writing containerd's databases: %w", err)
	}
	defer release()
	if meta, err = metaDatabase(ctx, c, locked, epoch, dir); err != nil {
		return nil, nil, fmt.Errorf("writing containerd's image database: %w", err)
	}
	if snapshots, err = snapshotDatabase(ctx, dir); err != nil {
		return nil, nil, fmt.Errorf("writing containerd's snapshot database: %w", err)
	}
	return meta, snapshots, nil
}

func metaDatabase(ctx context.Context, c *cache.Cache, locked []recipes.LockedImage, epoch time.Time, dir string) ([]byte, error) {
	blobs := &lockedBlobs{cache: c, sizes: map[digest.Digest]int64{}}
	db, err := openBolt(filepath.Join(dir, "meta.db"))
	if err != nil {
		return nil, err
	}
	defer db.Close()
	store := metadata.NewDB(db, blobs, nil)
	if err := store.Init(ctx); err != nil {
		return nil, err
	}
	ctx = namespaces.WithNamespace(ctx, criNamespace)
	for _, image := range sorted(locked) {
		if err := record(ctx, blobs, store, image); err != nil {
			return nil, fmt.Errorf("%s: %w", image.Reference, err)
		}
	}
	if err := fixTimes(db, epoch); err != nil {
		return nil, err
	}
	return compact(db, filepath.Join(dir, "compact-meta.db"))
}

// record does what a pull would: a record for every blob, labels by which the garbage collector finds one blob from the other, and the
// names under which the CRI plugin looks images up.
func record(ctx context.Context, blobs *lockedBlobs, db *metadata.DB, image recipes.LockedImage) error {
	parts, err := readParts(blobs.cache, image)
	if err != nil {
		return err
	}
	store := db.ContentStore()
	for _, d := range parts.all() {
		blobs.sizes[d.Digest] = d.Size
		if err := recordContent(ctx, store, d); err != nil {
			return err
		}
	}
	sourceLabels, err := docker.AppendDistributionSourceLabel(store, image.Reference)
	if err != nil {
		return err
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
		return err
	}
	names, err := recordNames(image, parts)
	if err != nil {
		return err
	}
	records := metadata.NewImageStore(db)
	for _, name := range names {
		_, err := records.Create(ctx, images.Image{Name: name, Target: parts.target, Labels: criLabels})
		if err != nil && !errdefs.IsAlreadyExists(err) {
			return err
		}
	}
	return nil
}

// recordNames are the names that containerd's CRI plugin gives an image that it pulls: the reference, name@digest, and the config's
// digest, which is the image id (containerd internal/cri/server/images/image_pull.go, createOrUpdateImageReference).
func recordNames(image recipes.LockedImage, parts imageParts) ([]string, error) {
	named, _, err := normalize(image.Reference)
	if err != nil {
		return nil, err
	}
	digested, err := reference.WithDigest(reference.TrimNamed(named), parts.target.Digest)
	if err != nil {
		return nil, err
	}
	return []string{image.Reference, digested.String(), parts.config.Digest.String()}, nil
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

func snapshotDatabase(ctx context.Context, dir string) ([]byte, error) {
	path := filepath.Join(dir, "metadata.db")
	store, err := storage.NewMetaStore(path)
	if err != nil {
		return nil, err
	}
	defer store.Close()
	// The store creates its buckets with the first snapshot, so an empty file's worth of database is what a fresh node has.
	if err := store.WithTransaction(ctx, true, func(context.Context) error { return nil }); err != nil {
		return nil, err
	}
	if err := store.Close(); err != nil {
		return nil, err
	}
	db, err := openBolt(path)
	if err != nil {
		return nil, err
	}
	defer db.Close()
	return compact(db, filepath.Join(dir, "compact-metadata.db"))
}

func openBolt(path string) (*bolt.DB, error) {
	// The array is the freelist that allocates pages in the same order every time.
	return bolt.Open(path, 0o600, &bolt.Options{PageSize: pageSize, FreelistType: bolt.FreelistArrayType, NoSync: true})
}

// fixTimes sets every created and updated time in the database.
func fixTimes(db *bolt.DB, epoch time.Time) error {
	stamp, err := epoch.UTC().MarshalBinary()
	if err != nil {
		return err
	}
	return db.Update(func(tx *bolt.Tx) error {
		return tx.ForEach(func(_ []byte, b *bolt.Bucket) error { return fixBucket(b, stamp) })
	})
}

func fixBucket(b *bolt.Bucket, stamp []byte) error {
	var times, buckets [][]byte
	err := b.ForEach(func(k, v []byte) error {
		switch {
		case v == nil && string(k) != "labels":
			buckets = append(buckets, k)
		case v != nil && (string(k) == "createdat" || string(k) == "updatedat"):
			times = append(times, k)
		}
		return nil
	})
	if err != nil {
		return err
	}
	for _, k := range times {
		if err := b.Put(append([]byte{}, k...), stamp); err != nil {
			return err
		}
	}
	for _, k := range buckets {
		if err := fixBucket(b.Bucket(k), stamp); err != nil {
			return err
		}
	}
	return nil
}

// compact copies the database in key order into a new file, so that its history leaves no trace. One transaction per key: within one,
// bolt places changed buckets in the random order of a Go map.
func compact(db *bolt.DB, path string) ([]byte, error) {
	target, err := openBolt(path)
	if err != nil {
		return nil, err
	}
	defer target.Close()
	if err := bolt.Compact(target, db, 1); err != nil {
		return nil, err
	}
	if err := target.Close(); err != nil {
		return nil, err
	}
	return os.ReadFile(path)
}
