package preload

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"path"
	"slices"
	"strings"

	"github.com/google/go-containerregistry/pkg/v1"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/nodeimg/nodeimg/recipes"
)

// VerifyImage reads the layers of the node image img once and checks its store against the lock: every reference is in index.json with
// its digest, every blob of every image is there with the right size and sha256, and there is nothing else. The error names all that is
// missing, wrong or too much, by reference.
func VerifyImage(ctx context.Context, img v1.Image, locked []recipes.LockedImage) error {
	layers, err := img.Layers()
	if err != nil {
		return fmt.Errorf("verifying the store: %w", err)
	}
	tree := storeTree{files: map[string]storeFile{}}
	for i, layer := range layers {
		if err := tree.apply(ctx, layer, i); err != nil {
			return fmt.Errorf("verifying the store, layer %d: %w", i+1, err)
		}
	}
	if err := tree.check(locked); err != nil {
		return fmt.Errorf("verifying the store: %w", err)
	}
	return nil
}

// storeRoot is the store's path as layers spell it.
var storeRoot = strings.TrimPrefix(recipes.StorePath, "/")

// storeTree is what a container of the image would see below the store's path.
type storeTree struct{ files map[string]storeFile }

type storeFile struct {
	layer  int
	size   int64
	digest digest.Digest
	// text holds small files, which manifests are.
	text []byte
	// odd says why the file is none that belongs into a store.
	odd string
}

// apply lays a layer over those before it (image specification, "Image Layer Filesystem Changeset").
func (t *storeTree) apply(ctx context.Context, layer v1.Layer, number int) error {
	stream, err := layer.Uncompressed()
	if err != nil {
		return err
	}
	defer stream.Close()
	r := tar.NewReader(&contextReader{ctx, stream})
	for {
		header, err := r.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		name := path.Clean("/" + header.Name)[1:]
		dir, base := path.Split(name)
		dir = path.Clean(dir)
		switch {
		case base == ".wh..wh..opq":
			t.remove(dir, number, false)
			continue
		case strings.HasPrefix(base, ".wh."):
			t.remove(path.Join(dir, strings.TrimPrefix(base, ".wh.")), number, true)
			continue
		case header.Typeflag != tar.TypeDir:
			// A file where a directory was takes everything below with it.
			t.remove(name, number, true)
		}
		if !inStore(name) || header.Typeflag == tar.TypeDir {
			continue
		}
		file, err := t.read(r, header, number)
		if err != nil {
			return fmt.Errorf("reading %s: %w", name, err)
		}
		t.files[name] = file
	}
}

func inStore(name string) bool { return name == storeRoot || strings.HasPrefix(name, storeRoot+"/") }

// remove takes away what layers below number have at or below name.
func (t *storeTree) remove(name string, number int, itself bool) {
	if !inStore(name) && name != "." && !strings.HasPrefix(storeRoot+"/", name+"/") {
		return
	}
	maps.DeleteFunc(t.files, func(file string, f storeFile) bool {
		below := name == "." || strings.HasPrefix(file, name+"/")
		return f.layer < number && (below || itself && file == name)
	})
}

func (t *storeTree) read(r io.Reader, header *tar.Header, number int) (storeFile, error) {
	switch header.Typeflag {
	case tar.TypeReg:
	case tar.TypeLink:
		file, ok := t.files[path.Clean("/" + header.Linkname)[1:]]
		if !ok {
			file.odd = "a hard link to something outside the store"
		}
		file.layer = number
		return file, nil
	default:
		return storeFile{layer: number, odd: "not a regular file"}, nil
	}
	digester := digest.SHA256.Digester()
	var text bytes.Buffer
	w := io.Writer(digester.Hash())
	if header.Size <= maxManifest {
		w = io.MultiWriter(w, &text)
	}
	if _, err := io.Copy(w, r); err != nil {
		return storeFile{}, err
	}
	file := storeFile{layer: number, size: header.Size, digest: digester.Digest()}
	// Layers may be small too, and there may be thousands of them.
	if json.Valid(text.Bytes()) {
		file.text = text.Bytes()
	}
	return file, nil
}

func blobPath(d digest.Digest) string {
	return path.Join(storeRoot, ocispec.ImageBlobsDir, d.Algorithm().String(), d.Encoded())
}

func (t *storeTree) check(locked []recipes.LockedImage) error {
	problems := t.checkIndex(locked)
	expected := map[string]bool{
		path.Join(storeRoot, ocispec.ImageIndexFile):  true,
		path.Join(storeRoot, ocispec.ImageLayoutFile): true,
	}
	for _, image := range sorted(locked) {
		complain := func(format string, args ...any) {
			problems = append(problems, fmt.Errorf("%s: %w", image.Reference, fmt.Errorf(format, args...)))
		}
		for _, d := range []string{image.Digest, image.Manifest} {
			expected[blobPath(digest.Digest(d))] = true
		}
		parts, err := partsOf(image, func(d digest.Digest) ([]byte, error) {
			file, ok := t.files[blobPath(d)]
			if !ok {
				return nil, fmt.Errorf("manifest %s is missing", d)
			}
			if file.digest != d {
				return nil, fmt.Errorf("manifest %s is corrupt: its content has the digest %s", d, file.digest)
			}
			return file.text, nil
		})
		if err != nil {
			complain("%w", err)
			continue
		}
		for _, d := range parts.all() {
			expected[blobPath(d.Digest)] = true
			file, ok := t.files[blobPath(d.Digest)]
			switch {
			case !ok:
				complain("blob %s (%s) is missing", d.Digest, d.MediaType)
			case file.odd != "":
				complain("blob %s is %s", d.Digest, file.odd)
			case file.size != d.Size:
				complain("blob %s is corrupt: it has %d bytes, not %d", d.Digest, file.size, d.Size)
			case file.digest != d.Digest:
				complain("blob %s is corrupt: its content has the digest %s", d.Digest, file.digest)
			}
		}
	}
	for _, name := range slices.Sorted(maps.Keys(t.files)) {
		if !expected[name] {
			problems = append(problems, fmt.Errorf("/%s belongs to no image of the lock", name))
		}
	}
	return errors.Join(problems...)
}

// checkIndex compares index.json and oci-layout with what Index would write.
func (t *storeTree) checkIndex(locked []recipes.LockedImage) []error {
	var problems []error
	layout, ok := t.files[path.Join(storeRoot, ocispec.ImageLayoutFile)]
	var version ocispec.ImageLayout
	if !ok || json.Unmarshal(layout.text, &version) != nil || version.Version != ocispec.ImageLayoutVersion {
		problems = append(problems, fmt.Errorf("%s/%s is missing or wrong", recipes.StorePath, ocispec.ImageLayoutFile))
	}
	file, ok := t.files[path.Join(storeRoot, ocispec.ImageIndexFile)]
	if !ok {
		return append(problems, fmt.Errorf("%s/%s is missing", recipes.StorePath, ocispec.ImageIndexFile))
	}
	var index ocispec.Index
	if err := json.Unmarshal(file.text, &index); err != nil {
		return append(problems, fmt.Errorf("%s/%s is unreadable: %w", recipes.StorePath, ocispec.ImageIndexFile, err))
	}
	found := map[string]ocispec.Descriptor{}
	for _, d := range index.Manifests {
		found[d.Annotations[ocispec.AnnotationRefName]] = d
	}
	for _, image := range sorted(locked) {
		d, ok := found[image.Reference]
		delete(found, image.Reference)
		switch {
		case !ok:
			problems = append(problems, fmt.Errorf("%s: index.json does not name it", image.Reference))
		case d.Digest.String() != image.Digest || d.MediaType != image.MediaType || d.Size != image.Size:
			problems = append(problems, fmt.Errorf("%s: index.json says %s, the lock %s", image.Reference, d.Digest, image.Digest))
		}
	}
	for _, name := range slices.Sorted(maps.Keys(found)) {
		problems = append(problems, fmt.Errorf("%s: index.json names it, the lock does not", name))
	}
	return problems
}
