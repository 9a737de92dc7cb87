package preload

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"

	"github.com/google/go-containerregistry/pkg/v1"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/nodeimg/nodeimg/internal/cache"
	"github.com/nodeimg/nodeimg/recipes"
)

// VerifyImage checks the store of the node image img against the lock: every reference is in index.json with its digest, every blob of
// every image is there with the right size and sha256, and there is nothing else. The error names all that is missing, wrong or too much,
// by reference. Every layer is read once; what layers hold is remembered in known by digest, unless that is nil.
func VerifyImage(ctx context.Context, known *cache.Cache, img v1.Image, locked []recipes.LockedImage) error {
	layers, err := img.Layers()
	if err != nil {
		return fmt.Errorf("verifying the store: %w", err)
	}
	tree := storeTree{files: map[string]storeFile{}}
	for i, layer := range layers {
		entries, err := entriesOf(ctx, known, layer)
		if err != nil {
			return fmt.Errorf("verifying the store, layer %d: %w", i+1, err)
		}
		tree.apply(entries, i)
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
func (t *storeTree) apply(entries []storeEntry, number int) {
	for _, e := range entries {
		if e.Removes != "" {
			t.remove(e.Removes, number, e.Itself)
		}
		if e.Name == "" {
			continue
		}
		file := storeFile{layer: number, size: e.Size, digest: e.Digest, text: e.Text, odd: e.Odd}
		if e.Link != "" {
			target, ok := t.files[e.Link]
			if file = target; !ok {
				file.odd = "a hard link to something outside the store"
			}
			file.layer = number
		}
		t.files[e.Name] = file
	}
}

func inStore(name string) bool { return name == storeRoot || strings.HasPrefix(name, storeRoot+"/") }

// touchesStore says whether taking away what is at or below name can take something away from the store.
func touchesStore(name string) bool {
	return inStore(name) || name == "." || strings.HasPrefix(storeRoot+"/", name+"/")
}

// remove takes away what layers below number have at or below name.
func (t *storeTree) remove(name string, number int, itself bool) {
	maps.DeleteFunc(t.files, func(file string, f storeFile) bool {
		below := name == "." || strings.HasPrefix(file, name+"/")
		return f.layer < number && (below || itself && file == name)
	})
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
