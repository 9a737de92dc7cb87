package layers

import (
	"archive/tar"
	"cmp"
	"context"
	"fmt"
	"io"
	"path"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sync/errgroup"

	"github.com/nodeimg/nodeimg/internal/cache"
	"github.com/nodeimg/nodeimg/internal/cachedimage"
	"github.com/nodeimg/nodeimg/internal/progress"
	"github.com/nodeimg/nodeimg/preload"
	"github.com/nodeimg/nodeimg/preload/trees"
	"github.com/nodeimg/nodeimg/recipes"
)

// format changes whenever the same group gives another layer, be it by this package or by package trees.
const format = 1

// writeAll makes sure that the layers of all groups lie in the cache.
func writeAll(ctx context.Context, c *cache.Cache, groups []*group, images []recipes.LockedImage, options Options) ([]Layer, error) {
	layers := make([]Layer, len(groups))
	// The biggest first, so that none is left over at the end while a processor idles.
	order := make([]int, len(groups))
	for i := range order {
		order[i] = i
	}
	slices.SortStableFunc(order, func(a, b int) int { return cmp.Compare(groups[b].size, groups[a].size) })
	work, workCtx := errgroup.WithContext(ctx)
	work.SetLimit(runtime.GOMAXPROCS(0))
	for _, i := range order {
		work.Go(func() error {
			g := groups[i]
			layers[i].References = references(g, images)
			title := fmt.Sprintf("[preload] layer %d/%d: %s", i+1, len(groups), short(layers[i].References))
			made, err := g.make(workCtx, c, options.Epoch, title)
			if err != nil {
				return fmt.Errorf("writing the layer of %s: %w", short(layers[i].References), err)
			}
			layers[i].Contents = g.contents(made.DiffID)
			layers[i].Layer, err = cachedimage.GzipLayer(c, made.Digest, made.DiffID, made.Size)
			return err
		})
	}
	if err := work.Wait(); err != nil {
		return nil, because(ctx, err)
	}
	return layers, nil
}

func references(g *group, images []recipes.LockedImage) []string {
	var list []string
	for _, user := range g.users {
		list = append(list, images[user].Reference)
	}
	slices.Sort(list)
	return slices.Compact(list)
}

// short names one image and counts the others.
func short(references []string) string {
	if len(references) == 1 {
		return references[0]
	}
	return fmt.Sprintf("%s and %d more", references[0], len(references)-1)
}

func (g *group) contents(diffID digest.Digest) preload.ContentsLayer {
	contents := preload.ContentsLayer{DiffID: diffID}
	for _, b := range g.blobs {
		contents.Blobs = append(contents.Blobs, b.digest)
	}
	for _, t := range g.trees {
		contents.Snapshots = append(contents.Snapshots, t.Snapshot)
	}
	return contents
}

// madeLayer is what the cache remembers about a layer.
type madeLayer struct {
	Digest digest.Digest `json:"digest"`
	DiffID digest.Digest `json:"diffID"`
	Size   int64         `json:"size"`
}

// cacheKey changes with everything that the layer's bytes depend on: a tree is a function of its chain id.
func (g *group) cacheKey(epoch time.Time) string {
	return fmt.Sprintf("preload-layer-%d-%s-%d-%s", format, compressorVersion(), epoch.UnixNano(), g.key)
}

func compressorVersion() string {
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, module := range info.Deps {
			if module.Path == "github.com/klauspost/compress" {
				return module.Version
			}
		}
	}
	return "unknown"
}

// make makes sure that the group's layer lies in the cache.
func (g *group) make(ctx context.Context, c *cache.Cache, epoch time.Time, title string) (madeLayer, error) {
	key := g.cacheKey(epoch)
	unlock, err := c.Lock(ctx, key)
	if err != nil {
		return madeLayer{}, err
	}
	defer unlock()
	step := progress.Start(ctx, "%s", title)
	var made madeLayer
	known, err := c.Fact(key, &made)
	if err != nil {
		return madeLayer{}, step.Done(err)
	}
	if size, err := c.Size(made.Digest); known && err == nil && size == made.Size {
		step.Cached()
		return made, step.Done(nil)
	}
	step.Total(g.size)
	made, err = store(ctx, c, step.Add, func(ctx context.Context, s *sections) error { return g.write(ctx, c, s, epoch) })
	if err == nil {
		err = c.PutFact(key, made)
	}
	return made, step.Done(err)
}

// write writes the group's tar: the folders on the way, blobs as the store has them, then the trees.
func (g *group) write(ctx context.Context, c *cache.Cache, s *sections, epoch time.Time) error {
	w := tar.NewWriter(s)
	written := map[string]bool{".": true}
	if len(g.blobs) > 0 {
		if err := writeFolder(w, blobsFolder, epoch, written); err != nil {
			return err
		}
	}
	for _, b := range g.blobs {
		if err := writeBlob(c, w, s, b, epoch); err != nil {
			return fmt.Errorf("writing blob %s: %w", b.digest, err)
		}
	}
	if len(g.trees) > 0 {
		if err := writeFolder(w, snapshotsFolder, epoch, written); err != nil {
			return err
		}
	}
	if err := writeTrees(ctx, c, w, g.trees); err != nil {
		return err
	}
	return w.Close()
}

// writeTrees plans images anew, but one only as long as the next tree is in it too.
func writeTrees(ctx context.Context, c *cache.Cache, w *tar.Writer, list []tree) error {
	var plan []*trees.Tree
	for _, t := range list {
		is := func(other *trees.Tree) bool { return other.ChainID == t.ChainID }
		at := slices.IndexFunc(plan, is)
		if at < 0 {
			var err error
			if plan, err = trees.Plan(ctx, c, t.layers); err != nil {
				return fmt.Errorf("reading the layers of snapshot %s: %w", t.ChainID, err)
			}
			if at = slices.IndexFunc(plan, is); at < 0 {
				return fmt.Errorf("reading the layers of snapshot %s: they were other ones before", t.ChainID)
			}
		}
		if err := plan[at].Write(ctx, w, path.Join(snapshotsFolder, t.ChainID.Encoded())); err != nil {
			return err
		}
	}
	return nil
}

// The folders of blobs and trees, as layers spell them.
var (
	blobsFolder     = strings.TrimPrefix(recipes.StorePath, "/") + "/blobs/sha256"
	snapshotsFolder = strings.TrimPrefix(recipes.SnapshotsPath, "/")
)

// writeFolder writes the folder and those on the way, because a layer that lies only in a registry has no other place to say their mode.
func writeFolder(w *tar.Writer, folder string, epoch time.Time, written map[string]bool) error {
	if written[folder] {
		return nil
	}
	written[folder] = true
	if err := writeFolder(w, path.Dir(folder), epoch, written); err != nil {
		return err
	}
	return w.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: folder + "/", Mode: 0o755, ModTime: epoch, Format: tar.FormatPAX})
}

func writeBlob(c *cache.Cache, w *tar.Writer, s *sections, b blob, epoch time.Time) error {
	f, err := c.Open(b.digest)
	if err != nil {
		return err
	}
	defer f.Close()
	header := &tar.Header{Typeflag: tar.TypeReg, Name: path.Join(blobsFolder, b.digest.Encoded()), Mode: 0o644, Size: b.size, ModTime: epoch, Format: tar.FormatPAX}
	if err := w.WriteHeader(header); err != nil {
		return err
	}
	if b.size >= sectionWorth {
		if err := s.begin(packed); err != nil {
			return err
		}
	}
	n, err := io.Copy(w, f)
	if err != nil {
		return err
	}
	if n != b.size {
		return fmt.Errorf("it has %d bytes in the cache, its manifest says %d; remove that blob from the cache", n, b.size)
	}
	return s.begin(files)
}
