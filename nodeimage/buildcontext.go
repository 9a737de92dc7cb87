package nodeimage

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"time"

	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/opencontainers/go-digest"

	"github.com/nodeimg/nodeimg/builder/publish"
	"github.com/nodeimg/nodeimg/dockerfiles"
	"github.com/nodeimg/nodeimg/internal/cache"
	"github.com/nodeimg/nodeimg/internal/cachedimage"
	"github.com/nodeimg/nodeimg/preload"
	"github.com/nodeimg/nodeimg/recipes"
	"github.com/nodeimg/nodeimg/sources"
)

// BakeFile is the name of the file in a written build context that tells "docker buildx bake" where everything lies.
const BakeFile = "docker-bake.json"

// storeContext is the context that holds the finished store.
const storeContext = "store"

// bake is as much of buildx's bake file format as a build context needs (docs.docker.com/build/bake/reference).
type bake struct {
	Target map[string]bakeTarget `json:"target"`
}

type bakeTarget struct {
	Context    string            `json:"context"`
	Dockerfile string            `json:"dockerfile"`
	Contexts   map[string]string `json:"contexts"`
	Args       map[string]string `json:"args"`
	Platforms  []string          `json:"platforms"`
}

// WriteBuildContext resolves the recipe and writes everything that building it needs into dir, which must not exist or be empty: the
// Dockerfile, its contexts, and a bake file, so that "docker buildx bake" in dir builds the image without nodeimg and without network.
// The store is finished, because plain BuildKit has no broker to pull from.
func WriteBuildContext(ctx context.Context, document *recipes.Document, options Options, dir string) (err error) {
	options = options.withDefaults()
	if entries, err := os.ReadDir(dir); err == nil && len(entries) > 0 {
		return recipes.InputErrorf("output %s: the folder is not empty; name another one", dir)
	}
	inputs := SourceOptions(options)
	lock, err := sources.Resolve(ctx, document, inputs)
	if err != nil {
		return err
	}
	compiled, err := dockerfiles.Compile(document.Recipe, *lock, dockerfiles.PreloadContext)
	if err != nil {
		return err
	}
	if document.Recipe.Spec.CRI.Name.UnpackedOnly() && len(lock.Images) > 0 {
		return recipes.InputErrorf("output %s: CRI-O runs unpacked images only, and no Dockerfile can put those into a node faithfully; build recipe %s with nodeimg build", dir, document.Recipe.Metadata.Name)
	}
	images := inputs.Images(document)
	for _, image := range lock.Images {
		if err := images.Fetch(ctx, image); err != nil {
			return err
		}
	}
	return publish.Folder(ctx, dir, func(staging string) error {
		w := contextWriter{cache: options.Cache, dir: staging}
		if err := w.write("Dockerfile", dockerfiles.ContextFile{Mode: 0o644, Content: compiled.Dockerfile}); err != nil {
			return err
		}
		target := bakeTarget{
			Context: ".", Dockerfile: "Dockerfile", Contexts: map[string]string{}, Platforms: []string{lock.Platform},
			Args: map[string]string{"SOURCE_DATE_EPOCH": fmt.Sprint(options.Epoch.Unix())},
		}
		for _, c := range compiled.Contexts {
			folder := path.Join("contexts", c.Name)
			target.Contexts[c.Name] = "./" + folder
			switch {
			case c.Layout != "":
				// The digest decides; without a tag beside it buildx 0.33 passes on a name that BuildKit cannot parse (docker/buildx#3793).
				target.Contexts[c.Name] = "oci-layout://./" + folder + ":latest@" + c.Layout
				err = w.layout(folder, digest.Digest(c.Layout))
			case c.Name == storeContext:
				err = w.store(ctx, folder, document.Recipe.Spec.CRI.Name, lock.Images, options.Epoch)
			default:
				err = w.files(folder, c.Files)
			}
			if err != nil {
				return fmt.Errorf("writing the build context %s: %w", c.Name, err)
			}
		}
		text, err := json.MarshalIndent(bake{Target: map[string]bakeTarget{"default": target}}, "", "  ")
		if err != nil {
			return fmt.Errorf("writing %s: %w", BakeFile, err)
		}
		return w.write(BakeFile, dockerfiles.ContextFile{Mode: 0o644, Content: append(text, '\n')})
	})
}

// contextWriter writes build contexts as plain files.
type contextWriter struct {
	cache *cache.Cache
	dir   string
}

func (w contextWriter) write(name string, f dockerfiles.ContextFile) error {
	file := filepath.Join(w.dir, filepath.FromSlash(name))
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		return err
	}
	if f.Link != "" {
		return os.Symlink(f.Link, file)
	}
	if f.Blob == "" {
		if err := os.WriteFile(file, f.Content, f.Mode.Perm()); err != nil {
			return err
		}
		return os.Chmod(file, f.Mode)
	}
	blob, err := w.cache.Open(digest.Digest(f.Blob))
	if err != nil {
		return err
	}
	defer blob.Close()
	out, err := os.OpenFile(file, os.O_CREATE|os.O_EXCL|os.O_WRONLY, f.Mode.Perm())
	if err != nil {
		return err
	}
	if _, err := io.Copy(out, blob); err != nil {
		_ = out.Close()
		return err
	}
	if err := out.Close(); err != nil {
		return err
	}
	return os.Chmod(file, f.Mode)
}

func (w contextWriter) files(folder string, files []dockerfiles.ContextFile) error {
	if err := os.MkdirAll(filepath.Join(w.dir, filepath.FromSlash(folder)), 0o755); err != nil {
		return err
	}
	for _, f := range files {
		if err := w.write(path.Join(folder, f.Path), f); err != nil {
			return err
		}
	}
	return nil
}

// layout writes the image with the manifest d, which lies in the cache, as an OCI image layout.
func (w contextWriter) layout(folder string, d digest.Digest) error {
	image, err := cachedimage.Open(w.cache, d)
	if err != nil {
		return err
	}
	l, err := layout.Write(filepath.Join(w.dir, filepath.FromSlash(folder)), empty.Index)
	if err != nil {
		return err
	}
	return l.AppendImage(image)
}

// store writes what lies below /usr/lib/nodeimg in the image.
func (w contextWriter) store(ctx context.Context, folder string, cri recipes.CRIName, images []recipes.LockedImage, epoch time.Time) error {
	files, err := storeFiles(ctx, w.cache, cri, images, nil, epoch)
	if err != nil {
		return err
	}
	root := path.Dir(recipes.StorePath)
	written := map[string]bool{}
	for _, f := range files {
		relative, err := filepath.Rel(root, f.path)
		if err != nil {
			return err
		}
		name := path.Join(folder, filepath.ToSlash(relative))
		written[name] = true
		if err := w.write(name, dockerfiles.ContextFile{Mode: 0o644, Content: f.content, Link: f.link}); err != nil {
			return err
		}
	}
	for _, image := range images {
		blobs, err := preload.Blobs(w.cache, image)
		if err != nil {
			return err
		}
		for _, blob := range blobs {
			name := path.Join(folder, path.Base(recipes.StorePath), "blobs", blob.Digest.Algorithm().String(), blob.Digest.Encoded())
			if written[name] {
				continue
			}
			written[name] = true
			if err := w.write(name, dockerfiles.ContextFile{Mode: 0o644, Blob: blob.Digest.String()}); err != nil {
				return err
			}
		}
	}
	return nil
}
