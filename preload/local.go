package preload

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"strings"

	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/platforms"
	"github.com/distribution/reference"
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
	found []named
	// made are manifests that a docker-archive lacks, and at says where its other blobs lie.
	made map[digest.Digest][]byte
	at   map[digest.Digest]string
}

// named is one image name and what it names: one manifest or index, or a manifest for each of several platforms.
type named struct {
	reference string
	manifests []ocispec.Descriptor
}

// Close releases the archive's file.
func (l *local) Close() error {
	if l.close == nil {
		return nil
	}
	return l.close()
}

// openLayout opens an OCI image layout directory.
func openLayout(dir string) (*local, error) {
	if info, err := os.Stat(dir); err != nil || !info.IsDir() {
		return nil, recipes.InputErrorf("there is no OCI layout directory %s", dir)
	}
	return openFiles(dir, os.DirFS(dir), nil)
}

// openFiles finds the images in an OCI layout, or in what "docker save" wrote, which may be both at once.
func openFiles(name string, files fs.FS, close func() error) (*local, error) {
	l := &local{name: name, files: files, close: close}
	err := l.scan()
	if err != nil {
		if close != nil {
			_ = close()
		}
		return nil, err
	}
	return l, nil
}

func (l *local) scan() error {
	saved, err := l.readSaved()
	if err != nil {
		return err
	}
	b, err := l.readFile(ocispec.ImageIndexFile)
	switch {
	case errors.Is(err, fs.ErrNotExist) && saved == nil:
		return recipes.InputErrorf("%s is neither an OCI layout nor a docker-archive: it holds no index.json and no manifest.json", l.name)
	case errors.Is(err, fs.ErrNotExist):
		return l.scanSaved(saved)
	case err != nil:
		return err
	}
	var index ocispec.Index
	if err := json.Unmarshal(b, &index); err != nil {
		return recipes.InputErrorf("%s: index.json: %v", l.name, err)
	}
	for _, d := range index.Manifests {
		if err := checkDescriptor(d); err != nil {
			return recipes.InputErrorf("%s: index.json: %v", l.name, err)
		}
		names := annotatedNames(d)
		if len(names) == 0 {
			names = l.savedNames(saved, d)
		}
		for _, n := range names {
			if err := l.add(n, d); err != nil {
				return err
			}
		}
	}
	return l.checkFound()
}

// annotatedNames returns the image name that a descriptor of index.json carries: containerd's full one, else the one that the image
// specification has, unless that is a mere tag, which names no image.
func annotatedNames(d ocispec.Descriptor) []string {
	if n := d.Annotations[images.AnnotationImageName]; n != "" {
		return []string{n}
	}
	if n := d.Annotations[ocispec.AnnotationRefName]; strings.ContainsAny(n, ":/") {
		return []string{n}
	}
	return nil
}

func (l *local) add(raw string, d ocispec.Descriptor) error {
	ref, _, err := normalize(raw)
	if err != nil {
		return fmt.Errorf("%s: %w", l.name, err)
	}
	full := reference.TagNameOnly(ref).String()
	for i := range l.found {
		if l.found[i].reference == full {
			if !slices.ContainsFunc(l.found[i].manifests, func(o ocispec.Descriptor) bool { return o.Digest == d.Digest }) {
				l.found[i].manifests = append(l.found[i].manifests, d)
			}
			return nil
		}
	}
	l.found = append(l.found, named{full, []ocispec.Descriptor{d}})
	return nil
}

func (l *local) checkFound() error {
	if len(l.found) == 0 {
		return recipes.InputErrorf("%s holds no image with a name; save it with one, for instance \"docker save NAME:TAG\" or \"skopeo copy … oci:DIR:NAME:TAG\"", l.name)
	}
	return nil
}

// resolve locks every image for the platform, and puts manifests and configs into the cache.
func (l *local) resolve(c *cache.Cache, platform string) ([]recipes.LockedImage, error) {
	var locked []recipes.LockedImage
	for _, n := range l.found {
		target := n.manifests[0]
		if len(n.manifests) > 1 {
			wanted, err := platforms.Parse(platform)
			if err != nil {
				return nil, recipes.InputErrorf("platform %q: %v", platform, err)
			}
			if target, err = chooseFrom(n.manifests, wanted); err != nil {
				return nil, fmt.Errorf("%s: %s: %w", l.name, n.reference, err)
			}
		}
		b, err := l.readBlob(target)
		if err != nil {
			return nil, err
		}
		target = ocispec.Descriptor{MediaType: mediaType(target.MediaType, b), Digest: target.Digest, Size: int64(len(b))}
		image, err := lock(c, n.reference, target, b, platform, l.readBlob)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", l.name, err)
		}
		locked = append(locked, image)
	}
	return locked, nil
}

// open opens a blob, unverified.
func (l *local) open(d digest.Digest) (io.ReadCloser, error) {
	if b, ok := l.made[d]; ok {
		return io.NopCloser(bytes.NewReader(b)), nil
	}
	path, ok := l.at[d]
	if !ok {
		path = ocispec.ImageBlobsDir + "/" + d.Algorithm().String() + "/" + d.Encoded()
	}
	f, err := l.files.Open(path)
	if err != nil {
		return nil, recipes.InputErrorf("%s lacks the blob %s: %v", l.name, d, err)
	}
	return f, nil
}

// readBlob reads and verifies a manifest or config.
func (l *local) readBlob(d ocispec.Descriptor) ([]byte, error) {
	f, err := l.open(d.Digest)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := readLimited(f, l.name+": "+d.Digest.String())
	if err != nil {
		return nil, err
	}
	if got := digest.FromBytes(b); got != d.Digest {
		return nil, recipes.InputErrorf("%s is damaged: %v", l.name, &cache.DigestError{Want: d.Digest, Got: got, Size: int64(len(b))})
	}
	return b, nil
}

func (l *local) readFile(name string) ([]byte, error) {
	f, err := l.files.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return readLimited(f, l.name+": "+name)
}

// store copies a blob into the cache, verified.
func (l *local) store(ctx context.Context, c *cache.Cache, d ocispec.Descriptor, step *progress.Step) error {
	if c.Has(d.Digest) {
		return nil
	}
	f, err := l.open(d.Digest)
	if err != nil {
		return err
	}
	defer f.Close()
	_, _, err = c.Put(step.Reader(&contextReader{ctx, f}), d.Digest)
	var wrong *cache.DigestError
	if errors.As(err, &wrong) {
		return recipes.InputErrorf("%s is damaged: %v", l.name, wrong)
	}
	return err
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
