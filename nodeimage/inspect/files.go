package inspect

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"slices"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/partial"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/opencontainers/go-digest"

	"github.com/nodeimg/nodeimg/internal/cache"
	"github.com/nodeimg/nodeimg/recipes"
)

// openFiles opens the image in an OCI layout or docker-archive. Name is how errors call it; digest may be empty.
func openFiles(files fs.FS, name, digest, platform string) (v1.Image, error) {
	index, err := readLimited(files, "index.json")
	var img v1.Image
	switch {
	case err == nil:
		img, err = openLayout(files, index, name, digest, platform)
	case errors.Is(err, fs.ErrNotExist):
		img, err = openSaved(files, name)
	default:
		return nil, fmt.Errorf("inspecting %s: %w", name, err)
	}
	if err != nil {
		return nil, err
	}
	if digest == "" {
		return img, nil
	}
	got, err := img.Digest()
	if err != nil {
		return nil, fmt.Errorf("inspecting %s: %w", name, err)
	}
	if got.String() != digest {
		return nil, recipes.InputErrorf("%s holds another image, %s, than %s", name, got, digest)
	}
	return img, nil
}

// openLayout opens an image of an OCI layout.
func openLayout(files fs.FS, index []byte, name, digest, platform string) (v1.Image, error) {
	found, err := manifests(files, index, name, 0)
	if err != nil {
		return nil, err
	}
	descriptor, err := choose(found, name, digest, platform)
	if err != nil {
		return nil, err
	}
	core := &filesImage{files: files, mediaType: descriptor.MediaType}
	if core.manifest, err = readBlob(files, name, descriptor.Digest); err != nil {
		return nil, err
	}
	manifest, err := v1.ParseManifest(bytes.NewReader(core.manifest))
	if err != nil {
		return nil, recipes.InputErrorf("%s is damaged: manifest %s: %v", name, descriptor.Digest, err)
	}
	if core.config, err = readBlob(files, name, manifest.Config.Digest); err != nil {
		return nil, err
	}
	return partial.CompressedToImage(core)
}

// deepestIndex bounds how deep indexes may be nested.
const deepestIndex = 4

// manifests lists the distinct image manifests of an index, also of those in it.
func manifests(files fs.FS, index []byte, name string, depth int) ([]v1.Descriptor, error) {
	parsed, err := v1.ParseIndexManifest(bytes.NewReader(index))
	if err != nil {
		return nil, recipes.InputErrorf("%s is damaged: an index in it: %v", name, err)
	}
	var found []v1.Descriptor
	for _, entry := range parsed.Manifests {
		switch {
		case isAttestation(entry):
		case entry.MediaType.IsIndex() && depth < deepestIndex:
			inner, err := readBlob(files, name, entry.Digest)
			if err != nil {
				return nil, err
			}
			more, err := manifests(files, inner, name, depth+1)
			if err != nil {
				return nil, err
			}
			found = append(found, more...)
		case entry.MediaType.IsImage():
			found = append(found, entry)
		}
	}
	return found, nil
}

// isAttestation tells entries that are no images (BuildKit docs/attestations/attestation-storage.md).
func isAttestation(entry v1.Descriptor) bool {
	return entry.Platform != nil && entry.Platform.OS == "unknown"
}

// choose picks the manifest that was asked for: by digest, or the one for the platform, or the only one.
func choose(found []v1.Descriptor, name, digest, platform string) (v1.Descriptor, error) {
	distinct := map[v1.Hash]v1.Descriptor{}
	fitting := map[v1.Hash]v1.Descriptor{}
	for _, entry := range found {
		if entry.Digest.String() == digest {
			return entry, nil
		}
		distinct[entry.Digest] = entry
		if entry.Platform != nil && (entry.Platform.String() == platform || entry.Platform.OS+"/"+entry.Platform.Architecture == platform) {
			fitting[entry.Digest] = entry
		}
	}
	for _, candidates := range []map[v1.Hash]v1.Descriptor{distinct, fitting} {
		if len(candidates) == 1 {
			for _, only := range candidates {
				return only, nil
			}
		}
	}
	switch {
	case len(distinct) == 0:
		return v1.Descriptor{}, recipes.InputErrorf("%s holds no image", name)
	case platform == "":
		return v1.Descriptor{}, recipes.InputErrorf("%s holds %d images, for %s; choose one with --platform or by %s@sha256:…", name, len(distinct), platforms(found), name)
	case len(fitting) == 0:
		return v1.Descriptor{}, recipes.InputErrorf("%s holds %d images and none for %s; choose one with --platform or by %s@sha256:…", name, len(distinct), platform, name)
	default:
		return v1.Descriptor{}, recipes.InputErrorf("%s holds %d images for %s; choose one by %s@sha256:…", name, len(fitting), platform, name)
	}
}

// platforms lists what images there are for.
func platforms(found []v1.Descriptor) string {
	var names []string
	for _, entry := range found {
		text := "a platform that only its config names"
		if entry.Platform != nil {
			text = entry.Platform.String()
		}
		if !slices.Contains(names, text) {
			names = append(names, text)
		}
	}
	return strings.Join(names, ", ")
}

// readBlob reads a small blob of an OCI layout and checks its digest.
func readBlob(files fs.FS, name string, hash v1.Hash) ([]byte, error) {
	content, err := readLimited(files, path.Join("blobs", hash.Algorithm, hash.Hex))
	if err != nil {
		return nil, recipes.InputErrorf("%s is damaged: blob %s: %v", name, hash, err)
	}
	if got, _, err := v1.SHA256(bytes.NewReader(content)); err != nil || got != hash {
		return nil, recipes.InputErrorf("%s is damaged: blob %s has the digest %s", name, hash, got)
	}
	return content, nil
}

// savedImage is an entry of a docker-archive's manifest.json.
type savedImage struct {
	Config   string
	RepoTags []string
	Layers   []string
}

// openSaved opens the image of a docker-archive, which has no manifest of the registry's kind: one is made whose layers are the tars as
// they are in it.
func openSaved(files fs.FS, name string) (v1.Image, error) {
	content, err := readLimited(files, "manifest.json")
	if err != nil {
		return nil, recipes.InputErrorf("%s is neither an OCI layout nor a docker-archive: it holds no index.json and no manifest.json", name)
	}
	var saved []savedImage
	if err := json.Unmarshal(content, &saved); err != nil {
		return nil, recipes.InputErrorf("%s is damaged: manifest.json: %v", name, err)
	}
	if len(saved) != 1 {
		return nil, recipes.InputErrorf("%s holds %d images; save one alone", name, len(saved))
	}
	config, err := readLimited(files, path.Clean(saved[0].Config))
	if err != nil {
		return nil, recipes.InputErrorf("%s is damaged: config: %v", name, err)
	}
	parsed, err := v1.ParseConfigFile(bytes.NewReader(config))
	if err != nil {
		return nil, recipes.InputErrorf("%s is damaged: config: %v", name, err)
	}
	if len(parsed.RootFS.DiffIDs) != len(saved[0].Layers) {
		return nil, recipes.InputErrorf("%s is damaged: manifest.json names %d layers, the config %d", name, len(saved[0].Layers), len(parsed.RootFS.DiffIDs))
	}
	hash, size, err := v1.SHA256(bytes.NewReader(config))
	if err != nil {
		return nil, err
	}
	manifest := v1.Manifest{
		SchemaVersion: 2, MediaType: types.OCIManifestSchema1,
		Config: v1.Descriptor{MediaType: types.OCIConfigJSON, Digest: hash, Size: size},
		Layers: []v1.Descriptor{},
	}
	paths := map[v1.Hash]string{}
	for i, layer := range saved[0].Layers {
		file := strings.TrimPrefix(path.Clean("/"+layer), "/")
		descriptor, err := savedLayer(files, file, parsed.RootFS.DiffIDs[i])
		if err != nil {
			return nil, recipes.InputErrorf("%s is damaged: layer %s: %v", name, layer, err)
		}
		manifest.Layers = append(manifest.Layers, descriptor)
		paths[descriptor.Digest] = file
	}
	core := &filesImage{files: files, mediaType: types.OCIManifestSchema1, config: config, paths: paths}
	if core.manifest, err = json.Marshal(manifest); err != nil {
		return nil, err
	}
	return partial.CompressedToImage(core)
}

// savedLayer describes a layer of a docker-archive: a tar, or one compressed by gzip, whose digest is found by reading it.
func savedLayer(files fs.FS, file string, diffID v1.Hash) (v1.Descriptor, error) {
	f, err := files.Open(file)
	if err != nil {
		return v1.Descriptor{}, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return v1.Descriptor{}, err
	}
	r := bufio.NewReaderSize(f, 1<<20)
	if head, _ := r.Peek(2); !bytes.Equal(head, []byte{0x1f, 0x8b}) {
		return v1.Descriptor{MediaType: types.OCIUncompressedLayer, Digest: diffID, Size: info.Size()}, nil
	}
	hash, size, err := v1.SHA256(r)
	return v1.Descriptor{MediaType: types.OCILayer, Digest: hash, Size: size}, err
}

// filesImage is an image whose manifest and config were read from files.
type filesImage struct {
	files            fs.FS
	mediaType        types.MediaType
	manifest, config []byte
	// paths says where layers lie that are not among an OCI layout's blobs.
	paths map[v1.Hash]string
}

// RawConfigFile implements partial.CompressedImageCore.
func (i *filesImage) RawConfigFile() ([]byte, error) { return i.config, nil }

// RawManifest implements partial.CompressedImageCore.
func (i *filesImage) RawManifest() ([]byte, error) { return i.manifest, nil }

// MediaType implements partial.CompressedImageCore.
func (i *filesImage) MediaType() (types.MediaType, error) { return i.mediaType, nil }

// LayerByDigest implements partial.CompressedImageCore.
func (i *filesImage) LayerByDigest(hash v1.Hash) (partial.CompressedLayer, error) {
	manifest, err := v1.ParseManifest(bytes.NewReader(i.manifest))
	if err != nil {
		return nil, err
	}
	for _, layer := range manifest.Layers {
		if layer.Digest == hash {
			file, ok := i.paths[hash]
			if !ok {
				file = path.Join("blobs", hash.Algorithm, hash.Hex)
			}
			return &filesLayer{i.files, file, layer}, nil
		}
	}
	return nil, fmt.Errorf("the image has no layer %s", hash)
}

// filesLayer is a layer in a file.
type filesLayer struct {
	files      fs.FS
	path       string
	descriptor v1.Descriptor
}

// Digest implements partial.CompressedLayer.
func (l *filesLayer) Digest() (v1.Hash, error) { return l.descriptor.Digest, nil }

// Size implements partial.CompressedLayer.
func (l *filesLayer) Size() (int64, error) { return l.descriptor.Size, nil }

// MediaType implements partial.CompressedLayer.
func (l *filesLayer) MediaType() (types.MediaType, error) { return l.descriptor.MediaType, nil }

// Compressed implements partial.CompressedLayer. Who reads to the end learns whether the layer is what the manifest promises.
func (l *filesLayer) Compressed() (io.ReadCloser, error) {
	f, err := l.files.Open(l.path)
	if err != nil {
		return nil, err
	}
	want := digest.Digest(l.descriptor.Digest.String())
	if err := want.Validate(); err != nil {
		return nil, errors.Join(fmt.Errorf("layer %s: %w", want, err), f.Close())
	}
	return &verifiedReader{ReadCloser: f, digester: want.Algorithm().Digester(), want: want}, nil
}

// verifiedReader fails at its end unless it yielded what has the digest.
type verifiedReader struct {
	io.ReadCloser
	digester digest.Digester
	want     digest.Digest
	size     int64
}

// Read implements io.Reader.
func (r *verifiedReader) Read(p []byte) (int, error) {
	n, err := r.ReadCloser.Read(p)
	r.digester.Hash().Write(p[:n])
	r.size += int64(n)
	if !errors.Is(err, io.EOF) {
		return n, err
	}
	if got := r.digester.Digest(); got != r.want {
		return n, &cache.DigestError{Want: r.want, Got: got, Size: r.size}
	}
	return n, err
}
