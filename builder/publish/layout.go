package publish

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"

	"github.com/distribution/reference"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/partial"
	"github.com/google/go-containerregistry/pkg/v1/types"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/nodeimg/nodeimg/internal/progress"
	"github.com/nodeimg/nodeimg/recipes"
)

// containerdName is the annotation by which containerd and BuildKit know the full name of an image in an index
// (containerd's images.AnnotationImageName).
const containerdName = "io.containerd.image.name"

// WriteLayout writes img as an OCI image layout to dir, which appears by rename and replaces an OCI layout or an empty folder. Every
// name becomes an entry of index.json; without names there is one nameless entry. The error is a *recipes.InputError when a name is
// not an image reference or dir is something else.
func WriteLayout(ctx context.Context, dir string, img v1.Image, names []string) error {
	if err := checkLayoutDestination(dir); err != nil {
		return err
	}
	content, err := newLayoutContent(img, names)
	if err != nil {
		return fmt.Errorf("writing OCI layout %s: %w", dir, err)
	}
	step := progress.Start(ctx, "[export] OCI layout %s", dir)
	step.Total(content.size())
	if err := content.writeFolder(ctx, dir, step); err != nil {
		return step.Done(fmt.Errorf("writing OCI layout %s: %w", dir, err))
	}
	return step.Done(nil)
}

// WriteArchive writes img as an OCI image layout in an uncompressed tar, which appears by rename. The same image and names give the
// same bytes. Names are as in WriteLayout.
func WriteArchive(ctx context.Context, file string, img v1.Image, names []string) error {
	content, err := newLayoutContent(img, names)
	if err != nil {
		return fmt.Errorf("writing OCI archive %s: %w", file, err)
	}
	step := progress.Start(ctx, "[export] OCI archive %s", file)
	step.Total(content.size())
	if err := writeFile(file, func(w io.Writer) error { return content.writeTar(ctx, w, step) }); err != nil {
		return step.Done(fmt.Errorf("writing OCI archive %s: %w", file, err))
	}
	return step.Done(nil)
}

// writeFile lets write produce a file that appears by rename.
func writeFile(file string, write func(io.Writer) error) error {
	if err := checkFileDestination(file); err != nil {
		return err
	}
	s, err := newStaging(file)
	if err != nil {
		return err
	}
	defer s.remove()
	f, err := os.OpenFile(s.path(), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := write(f); err != nil {
		return err
	}
	if err := f.Close(); err != nil {
		return err
	}
	return s.commitFile()
}

// blob is one blob of an image.
type blob struct {
	digest v1.Hash
	size   int64
	open   func() (io.ReadCloser, error)
}

// layoutContent is everything that an OCI layout of an image consists of.
type layoutContent struct {
	// blobs are distinct and sorted by digest.
	blobs  []blob
	index  []byte
	layout []byte
}

func newLayoutContent(img v1.Image, names []string) (*layoutContent, error) {
	descriptor, err := describe(img)
	if err != nil {
		return nil, err
	}
	index, err := indexJSON(descriptor, names)
	if err != nil {
		return nil, err
	}
	layout, err := json.Marshal(ocispec.ImageLayout{Version: ocispec.ImageLayoutVersion})
	if err != nil {
		return nil, err
	}
	blobs, err := imageBlobs(img)
	if err != nil {
		return nil, err
	}
	return &layoutContent{blobs: blobs, index: index, layout: layout}, nil
}

// describe returns the image's descriptor with its platform.
func describe(img v1.Image) (v1.Descriptor, error) {
	descriptor, err := partial.Descriptor(img)
	if err != nil {
		return v1.Descriptor{}, fmt.Errorf("reading the manifest: %w", err)
	}
	config, err := img.ConfigFile()
	if err != nil {
		return v1.Descriptor{}, fmt.Errorf("reading the config: %w", err)
	}
	found := *descriptor
	found.Platform = config.Platform()
	return found, nil
}

// indexJSON is the layout's index.json with one entry for each name.
func indexJSON(descriptor v1.Descriptor, names []string) ([]byte, error) {
	index := v1.IndexManifest{SchemaVersion: 2, MediaType: types.OCIImageIndex}
	if len(names) == 0 {
		index.Manifests = []v1.Descriptor{descriptor}
	}
	for _, name := range names {
		named, err := tagged(name)
		if err != nil {
			return nil, err
		}
		entry := descriptor
		entry.Annotations = map[string]string{ocispec.AnnotationRefName: named.Tag(), containerdName: named.String()}
		index.Manifests = append(index.Manifests, entry)
	}
	return json.Marshal(index)
}

// CheckNames fails before a long build when an image could not be given one of the names afterwards. The error is a *recipes.InputError.
func CheckNames(names []string) error {
	for _, name := range names {
		if _, err := tagged(name); err != nil {
			return err
		}
	}
	return nil
}

// tagged reads a name with a tag, by default latest, and completes it as docker does.
func tagged(name string) (reference.NamedTagged, error) {
	named, err := reference.ParseNormalizedNamed(name)
	if err != nil {
		return nil, recipes.InputErrorf("image name %q: %v; expected for instance registry.example.com/k8s-node:v1.34.10", name, err)
	}
	if _, ok := named.(reference.Digested); ok {
		return nil, recipes.InputErrorf("image name %q: it has a digest, which only the build can know; give a name and a tag", name)
	}
	return reference.TagNameOnly(named).(reference.NamedTagged), nil
}

// imageBlobs returns manifest, config and layers, each once, sorted by digest.
func imageBlobs(img v1.Image) ([]blob, error) {
	found := map[v1.Hash]blob{}
	manifest, err := img.RawManifest()
	if err != nil {
		return nil, fmt.Errorf("reading the manifest: %w", err)
	}
	config, err := img.RawConfigFile()
	if err != nil {
		return nil, fmt.Errorf("reading the config: %w", err)
	}
	for _, b := range [][]byte{manifest, config} {
		hash, size, err := v1.SHA256(bytes.NewReader(b))
		if err != nil {
			return nil, err
		}
		found[hash] = blob{hash, size, func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(b)), nil }}
	}
	layers, err := img.Layers()
	if err != nil {
		return nil, fmt.Errorf("reading the layers: %w", err)
	}
	for _, layer := range layers {
		hash, err := layer.Digest()
		if err != nil {
			return nil, fmt.Errorf("reading a layer: %w", err)
		}
		size, err := layer.Size()
		if err != nil {
			return nil, fmt.Errorf("reading layer %s: %w", hash, err)
		}
		found[hash] = blob{hash, size, layer.Compressed}
	}
	blobs := make([]blob, 0, len(found))
	for _, b := range found {
		blobs = append(blobs, b)
	}
	slices.SortFunc(blobs, func(a, b blob) int { return cmp.Compare(a.digest.String(), b.digest.String()) })
	return blobs, nil
}

func (c *layoutContent) size() int64 {
	var total int64
	for _, b := range c.blobs {
		total += b.size
	}
	return total
}

// write copies the blob to w and fails when it is not as long as promised.
func (b blob) write(ctx context.Context, w io.Writer, step *progress.Step) error {
	r, err := b.open()
	if err != nil {
		return fmt.Errorf("reading blob %s: %w", b.digest, err)
	}
	defer r.Close()
	n, err := copyAll(ctx, w, r, step.Add)
	if err != nil {
		return fmt.Errorf("copying blob %s: %w", b.digest, err)
	}
	if n != b.size {
		return fmt.Errorf("copying blob %s: it has %d bytes instead of %d", b.digest, n, b.size)
	}
	return nil
}

func (c *layoutContent) writeFolder(ctx context.Context, dir string, step *progress.Step) error {
	s, err := newStaging(dir)
	if err != nil {
		return err
	}
	defer s.remove()
	for _, sub := range []string{s.path(), filepath.Join(s.path(), "blobs"), filepath.Join(s.path(), "blobs", "sha256")} {
		if err := os.Mkdir(sub, 0o755); err != nil {
			return err
		}
	}
	for _, b := range c.blobs {
		if err := b.writeTo(ctx, filepath.Join(s.path(), "blobs", b.digest.Algorithm, b.digest.Hex), step); err != nil {
			return err
		}
	}
	for name, content := range map[string][]byte{"index.json": c.index, "oci-layout": c.layout} {
		if err := os.WriteFile(filepath.Join(s.path(), name), content, 0o644); err != nil {
			return err
		}
	}
	return s.commitFolder()
}

func (b blob) writeTo(ctx context.Context, path string, step *progress.Step) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := b.write(ctx, f, step); err != nil {
		return err
	}
	return f.Close()
}
