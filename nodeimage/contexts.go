package nodeimage

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	iofs "io/fs"
	"os"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/tonistiigi/fsutil"
	"github.com/tonistiigi/fsutil/types"

	"github.com/nodeimg/nodeimg/dockerfiles"
	"github.com/nodeimg/nodeimg/internal/cache"
)

// contextFS serves a compiled context to BuildKit: small files from memory, large ones straight from the cache, so that nothing is
// copied on the host and nothing is left behind.
type contextFS struct {
	cache *cache.Cache
	files map[string]dockerfiles.ContextFile
	// stats are in the order that BuildKit wants: by path elements, parents first.
	stats []*types.Stat
}

func newContextFS(c *cache.Cache, files []dockerfiles.ContextFile, epoch time.Time) *contextFS {
	f := &contextFS{cache: c, files: map[string]dockerfiles.ContextFile{}}
	seen := map[string]bool{".": true}
	for _, file := range files {
		f.files[file.Path] = file
		for dir := path.Dir(file.Path); !seen[dir]; dir = path.Dir(dir) {
			seen[dir] = true
			f.stats = append(f.stats, &types.Stat{Path: dir, Mode: uint32(iofs.ModeDir | 0o755), ModTime: epoch.UnixNano()})
		}
		stat := &types.Stat{Path: file.Path, Mode: uint32(file.Mode), Size: file.Size, ModTime: modTime(file, epoch)}
		if file.Link != "" {
			stat.Mode, stat.Linkname, stat.Size = uint32(iofs.ModeSymlink|0o777), file.Link, 0
		}
		f.stats = append(f.stats, stat)
	}
	slices.SortFunc(f.stats, func(a, b *types.Stat) int {
		return slices.Compare(strings.Split(a.Path, "/"), strings.Split(b.Path, "/"))
	})
	return f
}

// modTime stands for the content: BuildKit takes a file of equal size and time for unchanged. It lies after the epoch, and the exporter
// sets every later time to the epoch. 2^58 nanoseconds are nine years.
func modTime(file dockerfiles.ContextFile, epoch time.Time) int64 {
	content := file.Blob
	if content == "" {
		content = digest.FromBytes(file.Content).String()
	}
	sum := sha256.Sum256([]byte(content + file.Link))
	return epoch.UnixNano() + 1 + int64(binary.BigEndian.Uint64(sum[:8])>>6)
}

// Walk implements fsutil.FS.
func (f *contextFS) Walk(ctx context.Context, target string, fn iofs.WalkDirFunc) error {
	target = strings.Trim(target, "/")
	skip := ""
	for _, stat := range f.stats {
		if err := context.Cause(ctx); err != nil {
			return err
		}
		if target != "" && stat.Path != target && !strings.HasPrefix(stat.Path, target+"/") || skip != "" && strings.HasPrefix(stat.Path, skip) {
			continue
		}
		err := fn(stat.Path, &fsutil.DirEntryInfo{Stat: stat.CloneVT()}, nil)
		switch {
		case errors.Is(err, iofs.SkipAll):
			return nil
		case errors.Is(err, iofs.SkipDir) && iofs.FileMode(stat.Mode).IsDir():
			skip = stat.Path + "/"
		case errors.Is(err, iofs.SkipDir):
			skip = path.Dir(stat.Path) + "/"
		case err != nil:
			return err
		}
	}
	return nil
}

// Open implements fsutil.FS.
func (f *contextFS) Open(name string) (io.ReadCloser, error) {
	file, ok := f.files[strings.Trim(name, "/")]
	if !ok {
		return nil, &os.PathError{Op: "open", Path: name, Err: iofs.ErrNotExist}
	}
	if file.Blob == "" {
		return io.NopCloser(bytes.NewReader(file.Content)), nil
	}
	blob, err := f.cache.Open(digest.Digest(file.Blob))
	if err != nil {
		return nil, fmt.Errorf("reading build context file %s: %w", name, err)
	}
	return blob, nil
}
