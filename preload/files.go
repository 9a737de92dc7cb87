package preload

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"

	"github.com/nodeimg/nodeimg/internal/cache"
	"github.com/nodeimg/nodeimg/recipes"
)

// ArchiveFiles opens a docker-archive or OCI archive, compressed or not, as a file system of its regular files. A compressed one is
// unpacked into the cache once. The caller must close it after its last use. The error is a *recipes.InputError when it is no archive.
func ArchiveFiles(ctx context.Context, c *cache.Cache, file string) (fs.FS, io.Closer, error) {
	f, err := os.Open(file)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil, recipes.InputErrorf("there is no archive %s", file)
	}
	if err != nil {
		return nil, nil, fmt.Errorf("opening archive: %w", err)
	}
	plain, err := decompressed(ctx, c, f)
	if err != nil {
		_ = f.Close()
		return nil, nil, fmt.Errorf("opening archive %s: %w", file, err)
	}
	files, err := scanTar(plain)
	if err != nil {
		_ = plain.Close()
		return nil, nil, recipes.InputErrorf("%s is no image archive: %v", file, err)
	}
	return files, plain, nil
}
