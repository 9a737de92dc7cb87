package containers

import (
	"cmp"
	"encoding/json"
	"fmt"
	"os"
	"path"
	"slices"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/identity"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/nodeimg/nodeimg/internal/cache"
	"github.com/nodeimg/nodeimg/preload"
	"github.com/nodeimg/nodeimg/preload/trees"
	"github.com/nodeimg/nodeimg/recipes"
)

// File is a file of the store.
type File struct {
	// Path is relative to the store's root, recipes.AdditionalStorePath.
	Path string
	// Content of a regular file.
	Content []byte
	// Link is the target of a symbolic link; empty for a regular file.
	Link string
}

// Files returns the store of the images, sorted by path. Unpacked are the snapshots whose trees lie at recipes.SnapshotsPath; manifests and
// configs must be in the cache. What has no time of its own gets epoch. The same images, snapshots and epoch, in any order, give the same
// files. The error is a *recipes.InputError for an image whose tree is not there: CRI-O unpacks nothing that lies in the node image.
func Files(c *cache.Cache, locked []recipes.LockedImage, unpacked []trees.Snapshot, epoch time.Time) ([]File, error) {
	return FilesOver(c, locked, unpacked, func(chain digest.Digest) string { return recipes.SnapshotsPath + "/" + chain.Encoded() }, epoch)
}

// FilesOver is Files for trees that lie anywhere: folder is the absolute path of the folder with a snapshot's tree.
func FilesOver(c *cache.Cache, locked []recipes.LockedImage, unpacked []trees.Snapshot, folder func(chain digest.Digest) string, epoch time.Time) ([]File, error) {
	s := &store{
		cache: c, epoch: epoch.UTC(), folder: folder, snapshots: map[digest.Digest]trees.Snapshot{}, images: map[string]*image{}, owners: map[string]string{},
	}
	for _, snapshot := range unpacked {
		if known, ok := s.snapshots[snapshot.ChainID]; ok && known != snapshot {
			return nil, fmt.Errorf("writing CRI-O's image store: snapshot %s is there twice, as %+v and %+v", snapshot.ChainID, known, snapshot)
		}
		s.snapshots[snapshot.ChainID] = snapshot
	}
	sorted := slices.SortedFunc(slices.Values(locked), func(a, b recipes.LockedImage) int {
		return cmp.Or(cmp.Compare(a.Reference, b.Reference), cmp.Compare(a.Digest, b.Digest))
	})
	for _, image := range sorted {
		if err := s.add(image); err != nil {
			return nil, fmt.Errorf("writing CRI-O's image store: %s: %w", image.Reference, err)
		}
	}
	files, err := s.files()
	if err != nil {
		return nil, fmt.Errorf("writing CRI-O's image store: %w", err)
	}
	return files, nil
}

// store gathers the records of images.
type store struct {
	cache     *cache.Cache
	epoch     time.Time
	folder    func(chain digest.Digest) string
	snapshots map[digest.Digest]trees.Snapshot
	// images by their ids.
	images map[string]*image
	// owners are the ids of images by their names.
	owners map[string]string
}

// add records an image, or one more name and manifest of one that is known.
func (s *store) add(locked recipes.LockedImage) error {
	parts, err := preload.ReadParts(s.cache, locked)
	if err != nil {
		return err
	}
	top, err := s.top(parts)
	if err != nil {
		return err
	}
	config, err := os.ReadFile(s.cache.Path(parts.Config.Digest))
	if err != nil {
		return fmt.Errorf("reading the config: %w", err)
	}
	// The id of an image is its config's digest (storage_dest.go, computeID).
	id := parts.Config.Digest.Encoded()
	if owner, ok := s.owners[locked.Reference]; ok {
		return fmt.Errorf("two images have this name, %s and %s", owner, id)
	}
	s.owners[locked.Reference] = id
	made, known := s.images[id]
	if !known {
		made = &image{record: imageRecord{ID: id, Digest: parts.Manifest.Digest, TopLayer: top, Metadata: "{}", Created: created(config, s.epoch)}}
		made.keep(parts.Config.Digest.String(), config)
		s.images[id] = made
	}
	made.record.Names = append(made.record.Names, locked.Reference)
	for _, d := range []digest.Digest{parts.Target.Digest, parts.Manifest.Digest} {
		text, err := os.ReadFile(s.cache.Path(d))
		if err != nil {
			return fmt.Errorf("reading the manifest: %w", err)
		}
		// By these an image is found by every digest: of the index and of the platform's manifest (storage_reference.go, resolveImage).
		made.keep(manifestKey+"-"+d.String(), text)
		if d == made.record.Digest {
			made.keep(manifestKey, text)
		}
	}
	return nil
}

// top returns the layer of the image's last snapshot; it is empty for an image without layers.
func (s *store) top(parts preload.Parts) (string, error) {
	if len(parts.DiffIDs) == 0 {
		return "", nil
	}
	chain := identity.ChainID(slices.Clone(parts.DiffIDs))
	if _, ok := s.snapshots[chain]; !ok {
		return "", recipes.InputErrorf("it lies in the node image packed, and CRI-O runs images only that lie there unpacked; preload it with layout %s, or choose another cri", recipes.LayoutUnpacked)
	}
	return LayerID(chain), nil
}

// created is when the config says that the image was made, else epoch.
func created(config []byte, epoch time.Time) time.Time {
	var file ocispec.Image
	if err := json.Unmarshal(config, &file); err != nil || file.Created == nil {
		return epoch
	}
	return file.Created.UTC()
}

// files are all files of the store.
func (s *store) files() ([]File, error) {
	layers, err := s.layers()
	if err != nil {
		return nil, err
	}
	records := []layerRecord{}
	var files []File
	for _, l := range layers {
		records = append(records, l.record(s.epoch))
		files = append(files, l.files(s.folder(l.ChainID))...)
	}
	images := []imageRecord{}
	for _, made := range s.sortedImages() {
		images = append(images, made.record)
		files = append(files, made.files()...)
	}
	for name, list := range map[string]any{layersFolder + "/layers.json": records, imagesFolder + "/images.json": images} {
		text, err := json.Marshal(list)
		if err != nil {
			return nil, err
		}
		files = append(files, File{Path: name, Content: text})
	}
	// Who only reads locks these files all the same, and cannot make them where the node's root is read-only (pkg/lockfile).
	files = append(files, File{Path: layersFolder + "/layers.lock"}, File{Path: imagesFolder + "/images.lock"})
	slices.SortFunc(files, func(a, b File) int { return cmp.Compare(a.Path, b.Path) })
	return files, nil
}

func (s *store) sortedImages() []*image {
	var list []*image
	for _, made := range s.images {
		list = append(list, made)
	}
	slices.SortFunc(list, func(a, b *image) int { return cmp.Compare(a.record.ID, b.record.ID) })
	return list
}

// dataPath is where an image's data with the key lies below its folder.
func dataPath(id, key string) string { return path.Join(imagesFolder, id, dataName(key)) }
