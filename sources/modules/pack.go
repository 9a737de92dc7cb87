package modules

import (
	"archive/tar"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path"
	"slices"
	"strings"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/klauspost/compress/gzip"
	"github.com/opencontainers/go-digest"
	imagespec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/nodeimg/nodeimg/internal/cache"
	"github.com/nodeimg/nodeimg/internal/cachedimage"
	"github.com/nodeimg/nodeimg/internal/progress"
	"github.com/nodeimg/nodeimg/recipes"
)

// packer makes images of compiled programs; everything it makes is a blob in the cache.
type packer struct {
	cache  *cache.Cache
	target platform
	epoch  time.Time
	// programs by "project/program".
	programs map[string]file
	// tools is the layer under kube-proxy and flannel.
	tools v1.Layer
}

// searchPath is the images' PATH; kubeadm's manifests name kube-apiserver and etcd without a folder.
const searchPath = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// pack makes img for the target platform.
func (p *packer) pack(ctx context.Context, img image) (_ recipes.LockedImage, err error) {
	step := progress.Start(ctx, "[pack] %s", img.reference)
	defer func() { err = step.Done(err) }()
	var layers []v1.Layer
	cached := true
	if img.tools {
		layers = append(layers, p.tools)
	}
	if img.accounts {
		layer, ok, err := p.layer(ctx, accounts)
		if err != nil {
			return recipes.LockedImage{}, err
		}
		cached = cached && ok
		layers = append(layers, layer)
	}
	entries, err := p.entries(img.files)
	if err != nil {
		return recipes.LockedImage{}, err
	}
	layer, ok, err := p.layer(ctx, entries)
	if err != nil {
		return recipes.LockedImage{}, err
	}
	if cached && ok {
		step.Cached()
	}
	packed, err := p.assemble(img, append(layers, layer))
	if err != nil {
		return recipes.LockedImage{}, err
	}
	return p.store(img, packed)
}

// assemble makes manifest and config.
func (p *packer) assemble(img image, layers []v1.Layer) (v1.Image, error) {
	packed := mutate.ConfigMediaType(mutate.MediaType(empty.Image, types.OCIManifestSchema1), types.OCIConfigJSON)
	packed, err := mutate.ConfigFile(packed, &v1.ConfigFile{
		OS: p.target.os, Architecture: p.target.arch, Variant: p.target.variant, Created: v1.Time{Time: p.epoch},
		Config: v1.Config{
			Entrypoint: img.entrypoint, User: img.user, WorkingDir: "/", Env: []string{searchPath},
			Labels: map[string]string{imagespec.AnnotationTitle: img.title, imagespec.AnnotationVersion: img.version},
		},
		RootFS: v1.RootFS{Type: "layers"},
	})
	if err != nil {
		return nil, err
	}
	for _, layer := range layers {
		packed, err = mutate.Append(packed, mutate.Addendum{
			Layer:   layer,
			History: v1.History{Created: v1.Time{Time: p.epoch}, CreatedBy: "nodeimg"},
		})
		if err != nil {
			return nil, err
		}
	}
	return packed, nil
}

// store puts manifest and config into the cache, where the layers already are, and describes the image.
func (p *packer) store(img image, packed v1.Image) (recipes.LockedImage, error) {
	config, err := packed.RawConfigFile()
	if err != nil {
		return recipes.LockedImage{}, err
	}
	if _, err := p.cache.PutBytes(config); err != nil {
		return recipes.LockedImage{}, err
	}
	raw, err := packed.RawManifest()
	if err != nil {
		return recipes.LockedImage{}, err
	}
	d, err := p.cache.PutBytes(raw)
	if err != nil {
		return recipes.LockedImage{}, err
	}
	manifest, err := packed.Manifest()
	if err != nil {
		return recipes.LockedImage{}, err
	}
	locked := recipes.LockedImage{
		Reference: img.reference, MediaType: string(manifest.MediaType), Digest: d.String(), Size: int64(len(raw)),
		Manifest: d.String(), Platform: p.target.String(), Role: img.role,
		Bytes: int64(len(raw)) + manifest.Config.Size,
	}
	for _, layer := range manifest.Layers {
		locked.Bytes += layer.Size
	}
	return locked, nil
}

// addTools makes the tools layer and puts it into the cache.
func (p *packer) addTools(ctx context.Context, tools func(context.Context) (v1.Layer, error)) error {
	layer, err := tools(ctx)
	if err != nil {
		return err
	}
	hash, err := layer.Digest()
	if err != nil {
		return err
	}
	p.tools = layer
	if p.cache.Has(digest.Digest(hash.String())) {
		return nil
	}
	rc, err := layer.Compressed()
	if err != nil {
		return err
	}
	defer rc.Close()
	_, _, err = p.cache.Put(rc, digest.Digest(hash.String()))
	return err
}

// entry is one file or folder of a layer.
type entry struct {
	// Path is absolute; a folder's ends with a slash.
	Path string
	Mode int64
	// Text is a small file's content, Blob a large one's.
	Text string
	Blob digest.Digest
	Size int64
	// BindService sets the file capability.
	BindService bool
}

// accounts are the files without which programs cannot name users or resolve host names from /etc/hosts first; the accounts are those
// of the images that upstream builds on.
var accounts = []entry{
	{Path: "/etc/", Mode: 0o755},
	{Path: "/etc/passwd", Mode: 0o644, Text: "root:x:0:0:root:/root:/sbin/nologin\nnobody:x:65534:65534:nobody:/nonexistent:/sbin/nologin\nnonroot:x:65532:65532:nonroot:/home/nonroot:/sbin/nologin\n"},
	{Path: "/etc/group", Mode: 0o644, Text: "root:x:0:\nnobody:x:65534:\nnonroot:x:65532:\n"},
	{Path: "/etc/nsswitch.conf", Mode: 0o644, Text: "hosts: files dns\n"},
	{Path: "/tmp/", Mode: 0o1777},
}

// entries are the folders and programs of a layer.
func (p *packer) entries(files []imageFile) ([]entry, error) {
	folders := map[string]bool{"/": true}
	var entries []entry
	for _, f := range files {
		program, ok := p.programs[f.program]
		if !ok {
			return nil, fmt.Errorf("no compiled program %s", f.program)
		}
		for dir := path.Dir(f.path); !folders[dir]; dir = path.Dir(dir) {
			folders[dir] = true
			entries = append(entries, entry{Path: dir + "/", Mode: 0o755})
		}
		entries = append(entries, entry{Path: f.path, Mode: 0o755, Blob: program.Digest, Size: program.Size, BindService: f.bindService})
	}
	return entries, nil
}

// layerFact is a compressed layer.
type layerFact struct {
	Digest digest.Digest `json:"digest"`
	DiffID digest.Digest `json:"diffID"`
	Size   int64         `json:"size"`
}

// layerFormat changes when the same entries give other bytes, for instance after an update of the compressor.
const layerFormat = 1

// layer returns the layer with the entries, from the cache when an earlier call packed it.
func (p *packer) layer(ctx context.Context, entries []entry) (_ v1.Layer, cached bool, err error) {
	entries = slices.SortedFunc(slices.Values(entries), func(a, b entry) int { return cmp.Compare(a.Path, b.Path) })
	description, err := json.Marshal(struct {
		Format  int
		Epoch   int64
		Entries []entry
	}{layerFormat, p.epoch.Unix(), entries})
	if err != nil {
		return nil, false, err
	}
	key := "modules-layer-" + digest.FromBytes(description).Encoded()
	var fact layerFact
	ok, err := p.cache.Fact(key, &fact)
	if err != nil {
		return nil, false, err
	}
	if ok && p.cache.Has(fact.Digest) {
		layer, err := p.cachedLayer(fact)
		return layer, true, err
	}

	reader, writer := io.Pipe()
	uncompressed := digest.SHA256.Digester()
	done := make(chan error, 1)
	go func() {
		err := p.writeLayer(ctx, writer, uncompressed.Hash(), entries)
		writer.CloseWithError(err)
		done <- err
	}()
	fact.Digest, fact.Size, err = p.cache.Put(reader, "")
	reader.CloseWithError(errors.New("storing the layer ended"))
	if writeErr := <-done; err == nil {
		err = writeErr
	}
	if err != nil {
		return nil, false, err
	}
	fact.DiffID = uncompressed.Digest()
	if err := p.cache.PutFact(key, fact); err != nil {
		return nil, false, err
	}
	layer, err := p.cachedLayer(fact)
	return layer, false, err
}

// writeLayer writes a gzip-compressed tar of the entries to w and the uncompressed tar to plain.
func (p *packer) writeLayer(ctx context.Context, w, plain io.Writer, entries []entry) error {
	compressor := gzip.NewWriter(w)
	archive := tar.NewWriter(io.MultiWriter(compressor, plain))
	for _, e := range entries {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if err := p.writeEntry(archive, e); err != nil {
			return fmt.Errorf("writing %s: %w", e.Path, err)
		}
	}
	if err := archive.Close(); err != nil {
		return err
	}
	return compressor.Close()
}

func (p *packer) writeEntry(archive *tar.Writer, e entry) error {
	header := &tar.Header{
		Typeflag: tar.TypeReg, Name: strings.TrimPrefix(e.Path, "/"), Mode: e.Mode, ModTime: p.epoch, Format: tar.FormatPAX,
		Size: e.Size + int64(len(e.Text)),
	}
	if strings.HasSuffix(e.Path, "/") {
		header.Typeflag = tar.TypeDir
	}
	if e.BindService {
		header.PAXRecords = map[string]string{capabilityRecord: string(bindServiceCapability())}
	}
	if err := archive.WriteHeader(header); err != nil {
		return err
	}
	if e.Blob == "" {
		_, err := io.WriteString(archive, e.Text)
		return err
	}
	f, err := p.cache.Open(e.Blob)
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = io.Copy(archive, f)
	return err
}

// cachedLayer is the layer of a fact.
func (p *packer) cachedLayer(fact layerFact) (v1.Layer, error) {
	return cachedimage.GzipLayer(p.cache, fact.Digest, fact.DiffID, fact.Size)
}
