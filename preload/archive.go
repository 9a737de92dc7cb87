package preload

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"

	"github.com/nodeimg/nodeimg/internal/cache"
	"github.com/nodeimg/nodeimg/internal/dockerengine"
	"github.com/nodeimg/nodeimg/recipes"
)

// openArchive opens the images of a docker-archive or OCI archive.
func openArchive(ctx context.Context, c *cache.Cache, file, want string) (*local, error) {
	files, plain, err := archiveFiles(ctx, c, file)
	if err != nil {
		return nil, err
	}
	l, err := openFiles(file, files, plain.Close, want)
	if err != nil {
		plain.discard()
		return nil, err
	}
	l.discard = plain.discard
	return l, nil
}

// archiveFiles opens an archive, which the caller closes.
func archiveFiles(ctx context.Context, c *cache.Cache, file string) (*tarFiles, plainFile, error) {
	if info, err := os.Stat(file); errors.Is(err, fs.ErrNotExist) {
		return nil, plainFile{}, recipes.InputErrorf("there is no archive %s", file)
	} else if err == nil && !info.Mode().IsRegular() {
		// Opening a pipe would wait for somebody to write into it.
		return nil, plainFile{}, recipes.InputErrorf("%s is no file", file)
	}
	f, err := os.Open(file)
	if err != nil {
		return nil, plainFile{}, fmt.Errorf("opening archive: %w", err)
	}
	plain, err := decompressed(ctx, c, f)
	if err != nil {
		_ = f.Close()
		return nil, plainFile{}, fmt.Errorf("opening archive %s: %w", file, err)
	}
	files, err := scanTar(plain)
	if err != nil {
		_ = plain.Close()
		plain.discard()
		return nil, plainFile{}, recipes.InputErrorf("%s is no image archive: %v", file, err)
	}
	return files, plain, nil
}

// openEngine opens what the Docker Engine saves of an image.
func openEngine(ctx context.Context, c *cache.Cache, engine Engine, ref string) (*local, error) {
	f, err := exported(ctx, c, engine, ref)
	if err != nil {
		return nil, err
	}
	files, err := scanTar(f)
	if err != nil {
		_ = f.Close()
		return nil, fmt.Errorf("reading what the Docker Engine saved of %s: %w", ref, err)
	}
	return openFiles("Docker image "+ref, files, f.Close, ref)
}

// exported saves an image of the Docker Engine into a file that has no name, so that nothing is left of it however this ends.
func exported(ctx context.Context, c *cache.Cache, engine Engine, ref string) (*os.File, error) {
	stream, err := engine.Save(ctx, ref)
	var missing *dockerengine.NotFoundError
	if errors.As(err, &missing) {
		return nil, recipes.InputErrorf("%v", err)
	}
	if err != nil {
		return nil, err
	}
	defer stream.Close()
	f, err := unnamed(c)
	if err != nil {
		return nil, err
	}
	if _, err := io.Copy(f, &contextReader{ctx, stream}); err != nil {
		_ = f.Close()
		return nil, fmt.Errorf("exporting %s from the Docker Engine: %w", ref, err)
	}
	return f, nil
}

func unnamed(c *cache.Cache) (*os.File, error) {
	dir, err := c.Dir("partial")
	if err != nil {
		return nil, err
	}
	f, err := os.CreateTemp(dir, "export-")
	if err != nil {
		return nil, err
	}
	if err := os.Remove(f.Name()); err != nil {
		_ = f.Close()
		return nil, err
	}
	return f, nil
}
