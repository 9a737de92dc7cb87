package preload

import (
	"archive/tar"
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"

	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/nodeimg/nodeimg/internal/cache"
	"github.com/nodeimg/nodeimg/internal/dockerengine"
	"github.com/nodeimg/nodeimg/recipes"
)

// maxEntries bounds what is remembered of a hostile archive; an image of a thousand layers has some four thousand entries.
const maxEntries = 1 << 17

var (
	gzipMagic = []byte{0x1f, 0x8b}
	zstdMagic = []byte{0x28, 0xb5, 0x2f, 0xfd}
)

// openArchive opens a docker-archive or OCI archive.
func openArchive(ctx context.Context, c *cache.Cache, file string) (*local, error) {
	files, closer, err := ArchiveFiles(ctx, c, file)
	if err != nil {
		return nil, err
	}
	return openFiles(file, files, closer.Close)
}

// openEngine opens what the Docker Engine saves of an image.
func openEngine(ctx context.Context, c *cache.Cache, engine Engine, ref string) (*local, error) {
	f, err := exported(ctx, c, engine, ref)
	if err != nil {
		return nil, err
	}
	return openTar("Docker image "+ref, f)
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
		f.Close()
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
		f.Close()
		return nil, err
	}
	return f, nil
}

// decompressed returns f itself, or the cached plain form of it after closing f.
func decompressed(ctx context.Context, c *cache.Cache, f *os.File) (*os.File, error) {
	head := make([]byte, len(zstdMagic))
	if n, err := f.ReadAt(head, 0); err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	} else {
		head = head[:n]
	}
	if !bytes.HasPrefix(head, gzipMagic) && !bytes.HasPrefix(head, zstdMagic) {
		return f, nil
	}
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	absolute, err := filepath.Abs(f.Name())
	if err != nil {
		return nil, err
	}
	key := fmt.Sprintf("decompressed %s %d %d", absolute, info.Size(), info.ModTime().UnixNano())
	var plain digest.Digest
	if ok, err := c.Fact(key, &plain); err != nil || !ok || !c.Has(plain) {
		var r io.Reader
		if bytes.HasPrefix(head, gzipMagic) {
			r, err = gzip.NewReader(bufio.NewReader(f))
		} else {
			var d *zstd.Decoder
			d, err = zstd.NewReader(f)
			r = d
			if err == nil {
				defer d.Close()
			}
		}
		if err != nil {
			return nil, recipes.InputErrorf("it is damaged: %v", err)
		}
		plain, _, err = c.Put(&contextReader{ctx, r}, "")
		if errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, gzip.ErrChecksum) || errors.Is(err, zstd.ErrCRCMismatch) {
			return nil, recipes.InputErrorf("it is damaged: %v", err)
		}
		if err != nil {
			return nil, err
		}
		if err := c.PutFact(key, plain); err != nil {
			return nil, err
		}
	}
	opened, err := c.Open(plain)
	if err != nil {
		return nil, err
	}
	f.Close()
	return opened, nil
}

// openTar takes f over.
func openTar(name string, f *os.File) (*local, error) {
	files, err := scanTar(f)
	if err != nil {
		f.Close()
		return nil, recipes.InputErrorf("%s is no image archive: %v", name, err)
	}
	return openFiles(name, files, f.Close)
}

// tarFiles is a tar archive as a file system: only regular files, found by their clean path.
type tarFiles struct {
	f       *os.File
	entries map[string]tarEntry
}

type tarEntry struct {
	info         fs.FileInfo
	offset, size int64
	// link is the clean path of the entry that this one stands for; old versions of Docker save a repeated layer so.
	link string
}

func scanTar(f *os.File) (*tarFiles, error) {
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return nil, err
	}
	t := &tarFiles{f: f, entries: map[string]tarEntry{}}
	r := tar.NewReader(f)
	for {
		header, err := r.Next()
		if errors.Is(err, io.EOF) {
			return t, nil
		}
		if err != nil {
			return nil, err
		}
		if len(t.entries) == maxEntries {
			return nil, fmt.Errorf("more than %d entries", maxEntries)
		}
		name := path.Clean("/" + header.Name)[1:]
		switch header.Typeflag {
		case tar.TypeReg:
			// The reader reads whole headers and no further, so the file's offset is where the entry begins.
			offset, err := f.Seek(0, io.SeekCurrent)
			if err != nil {
				return nil, err
			}
			t.entries[name] = tarEntry{info: header.FileInfo(), offset: offset, size: header.Size}
		case tar.TypeSymlink:
			t.entries[name] = tarEntry{link: path.Join("/", path.Dir(name), header.Linkname)[1:]}
		case tar.TypeLink:
			t.entries[name] = tarEntry{link: path.Clean("/" + header.Linkname)[1:]}
		}
	}
}

// Open implements fs.FS.
func (t *tarFiles) Open(name string) (fs.File, error) {
	entry, ok := t.entries[name]
	if ok && entry.link != "" {
		entry, ok = t.entries[entry.link]
	}
	if !ok || entry.info == nil {
		return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrNotExist}
	}
	return &tarFile{io.NewSectionReader(t.f, entry.offset, entry.size), entry.info}, nil
}

type tarFile struct {
	*io.SectionReader
	info fs.FileInfo
}

// Stat implements fs.File.
func (f *tarFile) Stat() (fs.FileInfo, error) { return f.info, nil }

// Close implements fs.File.
func (f *tarFile) Close() error { return nil }

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
	if err := json.Unmarshal(b, &saved); err != nil {
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

// scanSaved makes manifests for a docker-archive, which has none. Layers stay as they are, not compressed as a rule, because then
// manifest and digests depend on nothing but the image.
func (l *local) scanSaved(saved []savedImage) error {
	l.made, l.at = map[digest.Digest][]byte{}, map[digest.Digest]string{}
	for _, image := range saved {
		if len(image.RepoTags) == 0 {
			continue
		}
		d, err := l.makeManifest(image)
		if err != nil {
			return fmt.Errorf("reading %s: %w", l.name, err)
		}
		for _, tag := range image.RepoTags {
			if err := l.add(tag, d); err != nil {
				return err
			}
		}
	}
	return l.checkFound()
}

func (l *local) makeManifest(image savedImage) (ocispec.Descriptor, error) {
	b, err := l.readFile(path.Clean(image.Config))
	if err != nil {
		return ocispec.Descriptor{}, recipes.InputErrorf("its config: %v", err)
	}
	var config ocispec.Image
	if err := json.Unmarshal(b, &config); err != nil {
		return ocispec.Descriptor{}, recipes.InputErrorf("its config: %v", err)
	}
	if len(config.RootFS.DiffIDs) != len(image.Layers) {
		return ocispec.Descriptor{}, recipes.InputErrorf("the config names %d layers, manifest.json %d", len(config.RootFS.DiffIDs), len(image.Layers))
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
		return ocispec.Descriptor{}, recipes.InputErrorf("layer %s: %v", file, err)
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
		return ocispec.Descriptor{}, recipes.InputErrorf("layer %s: %v", file, err)
	}
	l.at[d.Digest] = file
	return d, nil
}
