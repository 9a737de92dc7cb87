package preload

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/core/snapshots/storage"
	"github.com/containerd/containerd/v2/pkg/labels"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/identity"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	bolt "go.etcd.io/bbolt"

	"github.com/nodeimg/nodeimg/internal/cache"
	"github.com/nodeimg/nodeimg/preload/trees"
)

const (
	// snapshotReference on a config keeps the image's snapshots from being collected (containerd core/unpack/unpacker.go).
	snapshotReference = "containerd.io/gc.ref.snapshot." + snapshotter
	// parentChain names the chain below, as containerd's unpacker does (core/unpack/unpacker.go, labelSnapshotParent).
	parentChain = "containerd.io/snapshot/parent-chain-id"
)

// parentsFirst returns the snapshots' chain ids in the order that gives them their numbers: by chain id, but parents before children.
func parentsFirst(list []trees.Snapshot) ([]digest.Digest, error) {
	byID := map[digest.Digest]trees.Snapshot{}
	for _, s := range list {
		if known, ok := byID[s.ChainID]; ok && known != s {
			return nil, fmt.Errorf("snapshot %s is there twice, as %+v and %+v", s.ChainID, known, s)
		}
		byID[s.ChainID] = s
	}
	var order []digest.Digest
	state := map[digest.Digest]bool{}
	var add func(id digest.Digest) error
	add = func(id digest.Digest) error {
		done, begun := state[id]
		if done {
			return nil
		}
		s, known := byID[id]
		if !known || begun {
			return fmt.Errorf("snapshot %s is missing or its own parent", id)
		}
		state[id] = false
		if s.Parent != "" {
			if err := add(s.Parent); err != nil {
				return fmt.Errorf("snapshot %s: %w", id, err)
			}
		}
		state[id] = true
		order = append(order, id)
		return nil
	}
	for _, id := range slices.Sorted(maps.Keys(byID)) {
		if err := add(id); err != nil {
			return nil, err
		}
	}
	return order, nil
}

// unpack does what containerd's unpacker does to its records when it unpacks images.
type unpack struct {
	records   *snapshotRecords
	snapshots map[digest.Digest]trees.Snapshot
	// order of the snapshots' numbers.
	order []digest.Digest
	// labels of each snapshot, from the first image that has it.
	labels map[digest.Digest]map[string]string
}

// newUnpack begins an empty snapshot database at path, which the caller must close.
func newUnpack(list []trees.Snapshot, path string) (*unpack, error) {
	u := &unpack{snapshots: map[digest.Digest]trees.Snapshot{}, labels: map[digest.Digest]map[string]string{}}
	for _, s := range list {
		u.snapshots[s.ChainID] = s
		u.labels[s.ChainID] = map[string]string{snapshots.LabelSnapshotRef: s.ChainID.String()}
		if s.Parent != "" {
			u.labels[s.ChainID][parentChain] = s.Parent.String()
		}
	}
	var err error
	if u.order, err = parentsFirst(list); err != nil {
		return nil, err
	}
	if u.records, err = openSnapshotRecords(path); err != nil {
		return nil, err
	}
	return u, nil
}

// image labels the image's blobs, when its last snapshot is there, and prepares the labels of its snapshots.
func (u *unpack) image(ctx context.Context, c *cache.Cache, store content.Store, parts imageParts) error {
	if len(u.snapshots) == 0 {
		return nil
	}
	b, err := readSmall(c, parts.config.Digest)
	if err != nil {
		return err
	}
	var config ocispec.Image
	if err := json.Unmarshal(b, &config); err != nil {
		return fmt.Errorf("reading config %s: %w", parts.config.Digest, err)
	}
	diffIDs := config.RootFS.DiffIDs
	if len(diffIDs) != len(parts.layers) {
		return fmt.Errorf("config %s names %d layers, the manifest %d", parts.config.Digest, len(diffIDs), len(parts.layers))
	}
	if len(diffIDs) == 0 {
		return nil
	}
	chains := identity.ChainIDs(slices.Clone(diffIDs))
	top := chains[len(chains)-1]
	if _, ok := u.snapshots[top]; !ok {
		return nil
	}
	for i, layer := range parts.layers {
		u.label(chains[i], i, diffIDs[i], layer.Annotations)
		if err := setLabel(ctx, store, layer.Digest, labels.LabelUncompressed, diffIDs[i].String()); err != nil {
			return err
		}
	}
	return setLabel(ctx, store, parts.config.Digest, snapshotReference, top.String())
}

// label prepares the labels of the snapshot of an image's layer number i.
func (u *unpack) label(chain digest.Digest, i int, diffID digest.Digest, annotations map[string]string) {
	s, ok := u.snapshots[chain]
	if !ok || u.labels[chain][snapshots.LabelSnapshotDiffID] != "" {
		return
	}
	for key, value := range snapshots.FilterInheritedLabels(annotations) {
		// An image must not make a snapshotter shift ownership (containerd core/unpack/unpacker.go, layerSnapshotLabels).
		if key != snapshots.LabelSnapshotUIDMapping && key != snapshots.LabelSnapshotGIDMapping && u.labels[chain][key] == "" {
			u.labels[chain][key] = value
		}
	}
	// A tree that holds what is below it too is not what its layer's diff id stands for.
	if i == 0 || s.Parent != "" {
		u.labels[chain][snapshots.LabelSnapshotDiffID] = diffID.String()
	}
}

func setLabel(ctx context.Context, store content.Store, d digest.Digest, key, value string) error {
	_, err := store.Update(ctx, content.Info{Digest: d, Labels: map[string]string{key: value}}, "labels."+key)
	return err
}

// record makes the snapshots.
func (u *unpack) record(ctx context.Context, store snapshots.Snapshotter) error {
	for _, id := range u.order {
		s, opt := u.snapshots[id], snapshots.WithLabels(u.labels[id])
		key := fmt.Sprintf(snapshots.UnpackKeyFormat, "preload", id)
		u.records.usage = snapshots.Usage{Size: s.Size, Inodes: s.Inodes}
		_, err := store.Prepare(ctx, key, s.Parent.String(), opt)
		if err == nil {
			err = store.Commit(ctx, id.String(), key, opt)
		}
		if err != nil {
			return fmt.Errorf("recording snapshot %s: %w", id, err)
		}
	}
	return nil
}

// snapshotRecords is the overlayfs snapshotter without its folders and mounts: only its database. What recording does not need is a nil
// call, that is a bug.
type snapshotRecords struct {
	snapshots.Snapshotter
	path  string
	store *storage.MetaStore
	// usage of the snapshot that is committed next.
	usage snapshots.Usage
}

// openSnapshotRecords begins an empty database at path. The caller must close it.
func openSnapshotRecords(path string) (*snapshotRecords, error) {
	store, err := storage.NewMetaStore(path, func(options *bolt.Options) error {
		*options = boltOptions
		return nil
	})
	if err != nil {
		return nil, err
	}
	return &snapshotRecords{path: path, store: store}, nil
}

// Prepare implements snapshots.Snapshotter.
func (r *snapshotRecords) Prepare(ctx context.Context, key, parent string, opts ...snapshots.Opt) ([]mount.Mount, error) {
	return nil, r.store.WithTransaction(ctx, true, func(ctx context.Context) error {
		_, err := storage.CreateSnapshot(ctx, snapshots.KindActive, key, parent, opts...)
		return err
	})
}

// Commit implements snapshots.Snapshotter.
func (r *snapshotRecords) Commit(ctx context.Context, name, key string, opts ...snapshots.Opt) error {
	return r.store.WithTransaction(ctx, true, func(ctx context.Context) error {
		_, err := storage.CommitActive(ctx, key, name, r.usage, opts...)
		return err
	})
}

// finish sets all times to epoch and returns the database, copied in key order through a file at path.
func (r *snapshotRecords) finish(ctx context.Context, epoch time.Time, path string) ([]byte, error) {
	// The store opens its file with the first transaction, and without snapshots there was none.
	if err := r.store.WithTransaction(ctx, true, func(context.Context) error { return nil }); err != nil {
		return nil, err
	}
	if err := r.store.Close(); err != nil {
		return nil, err
	}
	db, err := openBolt(r.path)
	if err != nil {
		return nil, err
	}
	defer db.Close()
	if err := fixTimes(db, epoch); err != nil {
		return nil, err
	}
	return compact(db, path)
}

func (r *snapshotRecords) close() { _ = r.store.Close() }
