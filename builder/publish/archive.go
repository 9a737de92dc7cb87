package publish

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"path"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/nodeimg/nodeimg/internal/progress"
	"github.com/nodeimg/nodeimg/recipes"
)

// tarWriter writes tars that depend on nothing but names and content: no owner, fixed modes, the epoch as time.
type tarWriter struct{ *tar.Writer }

func (t tarWriter) folder(name string) error {
	return t.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: name + "/", Mode: 0o755, ModTime: time.Unix(0, 0), Format: tar.FormatUSTAR})
}

// file announces a file of that size, whose content must be written next.
func (t tarWriter) file(name string, size int64) error {
	format := tar.FormatUSTAR
	if size >= 8<<30 {
		// USTAR has 11 octal digits for the size.
		format = tar.FormatPAX
	}
	return t.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Size: size, Mode: 0o644, ModTime: time.Unix(0, 0), Format: format})
}

func (t tarWriter) bytes(name string, content []byte) error {
	if err := t.file(name, int64(len(content))); err != nil {
		return err
	}
	_, err := t.Write(content)
	return err
}

func (c *layoutContent) writeTar(ctx context.Context, w io.Writer, step *progress.Step) error {
	t := tarWriter{tar.NewWriter(w)}
	for _, folder := range []string{"blobs", "blobs/sha256"} {
		if err := t.folder(folder); err != nil {
			return err
		}
	}
	for _, b := range c.blobs {
		if err := t.file(path.Join("blobs", b.digest.Algorithm, b.digest.Hex), b.size); err != nil {
			return err
		}
		if err := b.write(ctx, t, step); err != nil {
			return err
		}
	}
	if err := t.bytes("index.json", c.index); err != nil {
		return err
	}
	if err := t.bytes("oci-layout", c.layout); err != nil {
		return err
	}
	return t.Close()
}

// WriteDockerArchive writes img as a docker-archive, the format of "docker save", which appears by rename. Layers that are compressed
// otherwise than by gzip are written uncompressed, because Docker Engine 20.10 reads no zstd. The image's id in the Engine is the digest of its config. The error is a
// *recipes.InputError when a name is not an image reference.
func WriteDockerArchive(ctx context.Context, file string, img v1.Image, names []string) error {
	step := progress.Start(ctx, "[export] Docker archive %s", file)
	if err := writeFile(file, func(w io.Writer) error { return writeDockerTar(ctx, w, img, names, step) }); err != nil {
		return step.Done(fmt.Errorf("writing Docker archive %s: %w", file, err))
	}
	return step.Done(nil)
}

// dockerManifest is one entry of a docker-archive's manifest.json (moby image/spec/spec.md, "Combined Image JSON + Filesystem
// Changeset Format").
type dockerManifest struct {
	Config   string
	RepoTags []string
	Layers   []string
}

func writeDockerTar(ctx context.Context, w io.Writer, img v1.Image, names []string, step *progress.Step) error {
	config, err := img.RawConfigFile()
	if err != nil {
		return fmt.Errorf("reading the config: %w", err)
	}
	id, _, err := v1.SHA256(bytes.NewReader(config))
	if err != nil {
		return err
	}
	manifest := dockerManifest{Config: id.Hex + ".json", RepoTags: []string{}, Layers: []string{}}
	for _, name := range names {
		named, err := tagged(name)
		if err != nil {
			return err
		}
		manifest.RepoTags = append(manifest.RepoTags, named.String())
	}
	layers, err := dockerLayers(ctx, img)
	if err != nil {
		return err
	}
	var total int64
	written := map[string]bool{}
	for _, l := range layers {
		total += l.size
		manifest.Layers = append(manifest.Layers, l.name)
	}
	step.Total(total)
	t := tarWriter{tar.NewWriter(w)}
	if err := t.bytes(manifest.Config, config); err != nil {
		return err
	}
	for _, l := range layers {
		if written[l.name] {
			step.Add(l.size)
			continue
		}
		written[l.name] = true
		if err := l.write(ctx, t, step); err != nil {
			return fmt.Errorf("copying layer %s: %w", l.hash, err)
		}
	}
	// The manifest comes last, as in the archives of docker itself: who reads a stream has seen the blobs by then.
	content, err := json.Marshal([]dockerManifest{manifest})
	if err != nil {
		return err
	}
	if err := t.bytes("manifest.json", content); err != nil {
		return err
	}
	return t.Close()
}

// dockerLayer is a layer as a docker-archive holds it.
type dockerLayer struct {
	name string
	// hash and size are those of the bytes that open yields.
	hash v1.Hash
	size int64
	open func() (io.ReadCloser, error)
}

func dockerLayers(ctx context.Context, img v1.Image) ([]dockerLayer, error) {
	layers, err := img.Layers()
	if err != nil {
		return nil, fmt.Errorf("reading the layers: %w", err)
	}
	found := make([]dockerLayer, len(layers))
	for i, layer := range layers {
		if found[i], err = newDockerLayer(ctx, layer); err != nil {
			return nil, fmt.Errorf("reading layer %d: %w", i+1, err)
		}
	}
	return found, nil
}

func newDockerLayer(ctx context.Context, layer v1.Layer) (dockerLayer, error) {
	digest, err := layer.Digest()
	if err != nil {
		return dockerLayer{}, err
	}
	mediaType, err := layer.MediaType()
	if err != nil {
		return dockerLayer{}, err
	}
	if mediaType == types.OCILayer || mediaType == types.DockerLayer {
		size, err := layer.Size()
		return dockerLayer{name: digest.Hex + ".tar.gz", hash: digest, size: size, open: layer.Compressed}, err
	}
	diffID, err := layer.DiffID()
	if err != nil {
		return dockerLayer{}, err
	}
	var size int64
	if digest == diffID {
		size, err = layer.Size()
	} else {
		// A tar says how long a file is before its bytes.
		size, err = uncompressedSize(ctx, layer)
	}
	return dockerLayer{name: diffID.Hex + ".tar", hash: diffID, size: size, open: layer.Uncompressed}, err
}

func uncompressedSize(ctx context.Context, layer v1.Layer) (int64, error) {
	r, err := layer.Uncompressed()
	if err != nil {
		return 0, err
	}
	defer r.Close()
	return copyAll(ctx, io.Discard, r, func(int64) {})
}

// write writes the layer and makes sure that it is what manifest or config promise.
func (l dockerLayer) write(ctx context.Context, t tarWriter, step *progress.Step) error {
	if err := t.file(l.name, l.size); err != nil {
		return err
	}
	r, err := l.open()
	if err != nil {
		return err
	}
	defer r.Close()
	return verifiedCopy(ctx, t, r, l.hash, step)
}

// Write writes img to the output o of a recipe called name, with image names as in WriteLayout, and returns where it went. An output
// to the Docker Engine is for Load.
func (o Output) Write(ctx context.Context, name string, img v1.Image, names []string) (string, error) {
	dest := o.Destination(name)
	switch {
	case o.Type == OutputOCI:
		return dest, WriteLayout(ctx, dest, img, names)
	case o.Type == OutputOCIArchive:
		return dest, WriteArchive(ctx, dest, img, names)
	case o.Type == OutputDocker && dest != "":
		return dest, WriteDockerArchive(ctx, dest, img, names)
	default:
		return "", recipes.InputErrorf("output type=%s has no destination", o.Type)
	}
}
