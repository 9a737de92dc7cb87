package preload

import (
	"context"
	"fmt"
	"io"
	"io/fs"

	"github.com/nodeimg/nodeimg/internal/cache"
)

// ArchiveFiles opens a docker-archive or OCI archive, compressed or not, as a file system of its regular files. A compressed one is
// unpacked into the cache once. The caller must close it after its last use. The error is a *recipes.InputError when it is no archive.
func ArchiveFiles(ctx context.Context, c *cache.Cache, file string) (fs.FS, io.Closer, error) {
	files, plain, err := archiveFiles(ctx, c, file)
	if err != nil {
		return nil, nil, err
	}
	return files, plain, nil
}

// EngineFiles opens what the Engine saves of an image, a docker-archive or an OCI layout or both, as a file system of its regular files.
// It lies in the cache in a file without a name, so that nothing of it is left however this ends. The caller must close it after its last
// use. The error is a *recipes.InputError when the Engine has no such image.
func EngineFiles(ctx context.Context, c *cache.Cache, engine Engine, ref string) (fs.FS, io.Closer, error) {
	f, err := exported(ctx, c, engine, ref)
	if err != nil {
		return nil, nil, err
	}
	files, err := scanTar(f)
	if err != nil {
		_ = f.Close()
		return nil, nil, fmt.Errorf("reading what the Docker Engine saved of %s: %w", ref, err)
	}
	return files, f, nil
}
