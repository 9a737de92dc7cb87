package preload

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"strings"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/nodeimg/nodeimg/recipes"
)

// savedImage is an entry of the manifest.json that "docker save" writes.
type savedImage struct {
	Config   string
	RepoTags []string
	Layers   []string
}

// readSaved reads manifest.json; nil means that there is none.
func (l *local) readSaved() ([]savedImage, error) {
	b, err := l.readFile("manifest.json")
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	saved := []savedImage{}
	if err := decodeJSON(b, &saved); err != nil {
		return nil, recipes.InputErrorf("%s: manifest.json: %v", l.name, err)
	}
	return saved, nil
}

// savedNames finds the names that manifest.json has for a manifest of index.json, by its config.
func (l *local) savedNames(saved []savedImage, d ocispec.Descriptor) []string {
	if len(saved) == 0 {
		return nil
	}
	b, err := l.readBlob(d)
	if err != nil {
		return nil
	}
	manifest, err := parseManifest(b)
	if err != nil {
		return nil
	}
	for _, image := range saved {
		if strings.Contains(image.Config, manifest.Config.Digest.Encoded()) {
			return image.RepoTags
		}
	}
	return nil
}

// scanSaved finds the images of a docker-archive.
func (l *local) scanSaved(saved []savedImage) error {
	l.made, l.at = map[digest.Digest][]byte{}, map[digest.Digest]string{}
	for _, image := range saved {
		describe := func() (ocispec.Descriptor, error) { return l.makeManifest(image) }
		if len(image.RepoTags) == 0 {
			l.nameless = append(l.nameless, nameless{describe: describe})
		}
		for _, tag := range image.RepoTags {
			if err := l.add(tag, describe); err != nil {
				return err
			}
		}
	}
	return nil
}

// makeManifest makes a manifest for an image of a docker-archive, which has none. Layers stay as they are, not compressed as a rule,
// because then manifest and digests depend on nothing but the image.
func (l *local) makeManifest(image savedImage) (ocispec.Descriptor, error) {
	b, err := l.readFile(path.Clean(image.Config))
	if err != nil {
		return ocispec.Descriptor{}, recipes.InputErrorf("its config: %v", err)
	}
	var config ocispec.Image
	if err := decodeJSON(b, &config); err != nil {
		return ocispec.Descriptor{}, recipes.InputErrorf("its config %s: %v", shorten(image.Config), err)
	}
	if len(config.RootFS.DiffIDs) != len(image.Layers) {
		return ocispec.Descriptor{}, recipes.InputErrorf("its config names %d layers, manifest.json %d", len(config.RootFS.DiffIDs), len(image.Layers))
	}
	if len(image.Layers) > maxImageLayers {
		return ocispec.Descriptor{}, tooManyLayers(len(image.Layers))
	}
	manifest := ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2},
		MediaType: ocispec.MediaTypeImageManifest,
		Config:    ocispec.Descriptor{MediaType: ocispec.MediaTypeImageConfig, Digest: digest.FromBytes(b), Size: int64(len(b))},
		Layers:    []ocispec.Descriptor{},
	}
	l.made[manifest.Config.Digest] = b
	for i, file := range image.Layers {
		layer, err := l.layer(path.Clean(file), config.RootFS.DiffIDs[i])
		if err != nil {
			return ocispec.Descriptor{}, err
		}
		manifest.Layers = append(manifest.Layers, layer)
	}
	if b, err = json.Marshal(manifest); err != nil {
		return ocispec.Descriptor{}, err
	}
	d := ocispec.Descriptor{MediaType: manifest.MediaType, Digest: digest.FromBytes(b), Size: int64(len(b))}
	l.made[d.Digest] = b
	return d, nil
}

// layer describes a layer file of a docker-archive.
func (l *local) layer(file string, diffID digest.Digest) (ocispec.Descriptor, error) {
	f, err := l.files.Open(file)
	if err != nil {
		return ocispec.Descriptor{}, recipes.InputErrorf("layer %s: %v", shorten(file), err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	d := ocispec.Descriptor{MediaType: ocispec.MediaTypeImageLayer, Digest: diffID, Size: info.Size()}
	r := bufio.NewReader(f)
	head, _ := r.Peek(len(zstdMagic))
	switch {
	case bytes.HasPrefix(head, gzipMagic):
		d.MediaType = ocispec.MediaTypeImageLayerGzip
	case bytes.HasPrefix(head, zstdMagic):
		d.MediaType = ocispec.MediaTypeImageLayerZstd
	}
	if d.MediaType != ocispec.MediaTypeImageLayer {
		if d.Digest, err = digest.FromReader(r); err != nil {
			return ocispec.Descriptor{}, fmt.Errorf("layer %s: %w", file, err)
		}
	}
	if err := checkDescriptor(d); err != nil {
		return ocispec.Descriptor{}, recipes.InputErrorf("layer %s: %v", shorten(file), err)
	}
	l.at[d.Digest] = file
	return d, nil
}
