package preload

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/nodeimg/nodeimg/internal/cache"
	"github.com/nodeimg/nodeimg/internal/progress"
	"github.com/nodeimg/nodeimg/recipes"
)

// local is an opened archive or layout. Its owner closes it.
type local struct {
	// name is how errors call it.
	name  string
	files fs.FS
	close func() error
	// discard takes back what opening has put into the cache; nil means nothing.
	discard  func()
	found    []named
	nameless []nameless
	// made are manifests that a docker-archive lacks, and at says where its other blobs lie; both are filled as images are described.
	made      map[digest.Digest][]byte
	at        map[digest.Digest]string
	described bool
}

// Close releases the archive's file.
func (l *local) Close() error {
	if l.close == nil {
		return nil
	}
	return l.close()
}

// refused takes back what was opened for an image that cannot be used.
func (l *local) refused() {
	if l.discard != nil {
		l.discard()
	}
}

// openLayout opens the images of an OCI image layout directory.
func openLayout(dir, want string) (*local, error) {
	if info, err := os.Stat(dir); err != nil || !info.IsDir() {
		return nil, recipes.InputErrorf("there is no OCI layout directory %s", dir)
	}
	return openFiles(dir, folder(dir), nil, want)
}

// folder is a directory of regular files: opening a pipe in it would wait for ever, and a device has no end.
type folder string

// Open implements fs.FS.
func (dir folder) Open(name string) (fs.File, error) {
	if !fs.ValidPath(name) {
		return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrInvalid}
	}
	path := filepath.Join(string(dir), filepath.FromSlash(name))
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, recipes.InputErrorf("%s is not a regular file", path)
	}
	return os.Open(path)
}

// openFiles finds the images in an OCI layout, or in what "docker save" wrote, which may be both at once: the one that want names, or all
// that have names when want is empty.
func openFiles(name string, files fs.FS, close func() error, want string) (*local, error) {
	l := &local{name: name, files: files, close: close}
	err := l.scan()
	if err == nil {
		err = l.choose(want)
	}
	if err != nil {
		_ = l.Close()
		return nil, err
	}
	return l, nil
}

// open opens a blob, unverified, and says its size.
func (l *local) open(d digest.Digest) (io.ReadCloser, int64, error) {
	b, made := l.made[d]
	path, ok := l.at[d]
	if l.made != nil && !made && !ok && !l.described {
		// The archive is opened again for the blobs of an image that was described when it was opened before.
		l.described = true
		for _, n := range l.found {
			for _, describe := range n.manifests {
				if _, err := describe(); err != nil {
					return nil, 0, fmt.Errorf("%s: %s: %w", l.name, n.reference, err)
				}
			}
		}
		return l.open(d)
	}
	if made {
		return io.NopCloser(bytes.NewReader(b)), int64(len(b)), nil
	}
	if !ok {
		path = ocispec.ImageBlobsDir + "/" + d.Algorithm().String() + "/" + d.Encoded()
	}
	f, err := l.files.Open(path)
	if err != nil {
		return nil, 0, recipes.InputErrorf("%s lacks the blob %s: %v", l.name, d, err)
	}
	info, err := f.Stat()
	if err != nil {
		_ = f.Close()
		return nil, 0, fmt.Errorf("opening blob %s of %s: %w", d, l.name, err)
	}
	return f, info.Size(), nil
}

// readBlob reads and verifies a manifest or config.
func (l *local) readBlob(d ocispec.Descriptor) ([]byte, error) {
	f, size, err := l.open(d.Digest)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if size != d.Size {
		return nil, wrongSize(d, size)
	}
	b, err := readLimited(f, d.Digest.String())
	if err != nil {
		return nil, err
	}
	if got := digest.FromBytes(b); got != d.Digest {
		return nil, recipes.InputErrorf("it is damaged: %v", &cache.DigestError{Want: d.Digest, Got: got, Size: int64(len(b))})
	}
	return b, nil
}

func wrongSize(d ocispec.Descriptor, size int64) error {
	return recipes.InputErrorf("the blob %s (%s) has %d bytes, not the %d that its descriptor says", d.Digest, shorten(d.MediaType), size, d.Size)
}

func (l *local) readFile(name string) ([]byte, error) {
	f, err := l.files.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := readLimited(f, name)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", l.name, err)
	}
	return b, nil
}

// store copies a blob into the cache, verified.
func (l *local) store(ctx context.Context, c *cache.Cache, d ocispec.Descriptor, step *progress.Step) error {
	if c.Has(d.Digest) {
		return checkSize(c, d)
	}
	f, size, err := l.open(d.Digest)
	if err != nil {
		return err
	}
	defer f.Close()
	if size != d.Size {
		return fmt.Errorf("%s: %w", l.name, wrongSize(d, size))
	}
	_, _, err = c.Put(step.Reader(&contextReader{ctx, f}), d.Digest)
	var wrong *cache.DigestError
	if errors.As(err, &wrong) {
		return recipes.InputErrorf("%s is damaged: %v", l.name, wrong)
	}
	return err
}

// checkSize compares a blob in the cache, whose digest is right, with the size that a manifest gives it.
func checkSize(c *cache.Cache, d ocispec.Descriptor) error {
	size, err := c.Size(d.Digest)
	if err != nil {
		return err
	}
	if size != d.Size {
		return wrongSize(d, size)
	}
	return nil
}

// contextReader ends reading when the context ends.
type contextReader struct {
	ctx context.Context
	r   io.Reader
}

// Read implements io.Reader.
func (r *contextReader) Read(p []byte) (int, error) {
	if r.ctx.Err() != nil {
		return 0, context.Cause(r.ctx)
	}
	return r.r.Read(p)
}
