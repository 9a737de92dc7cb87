package nodeimage

import (
	"context"
	"fmt"

	"github.com/distribution/reference"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/opencontainers/go-digest"

	"github.com/nodeimg/nodeimg/builder/publish"
	"github.com/nodeimg/nodeimg/internal/cache"
	"github.com/nodeimg/nodeimg/internal/cachedimage"
	"github.com/nodeimg/nodeimg/recipes"
)

// publishImage writes the image to every output and pushes it. Lock is nil unless the image was just built from it; mounts says in which
// repositories its layers lie already.
func publishImage(ctx context.Context, image v1.Image, lock *recipes.Lock, recipeName string, mounts map[v1.Hash]string, options Options) (*Result, error) {
	hash, err := image.Digest()
	if err != nil {
		return nil, fmt.Errorf("reading the image of %s: %w", recipeName, err)
	}
	result := &Result{Lock: lock, Digest: hash}
	if result.Metadata, err = publish.NewMetadata(image, options.Tags, lock); err != nil {
		return nil, err
	}
	if options.Push {
		pushed, err := publish.Push(ctx, image, publish.PushOptions{
			References: options.Tags, InsecureRegistries: options.InsecureRegistries, Mounts: mounts,
		})
		if err != nil {
			return nil, err
		}
		result.References = pushed
		result.Metadata.References = pushed
	}
	for _, output := range options.Outputs {
		if output.Type == publish.OutputDocker && output.Dest == "" {
			if _, err := publish.Load(ctx, options.Engine, image, options.Tags); err != nil {
				return nil, err
			}
			result.References = append(result.References, options.Tags[0]+"@"+hash.String())
			continue
		}
		dest, err := output.Write(ctx, recipeName, image, options.Tags)
		if err != nil {
			return nil, err
		}
		result.References = append(result.References, dest+"@"+hash.String())
	}
	return result, nil
}

// baseMounts says that the base image's layers, which the image holds as they are, lie in the base image's repository: pushed to the
// same registry they are mounted from there. Where that fails they are uploaded like the others.
func baseMounts(c *cache.Cache, lock *recipes.Lock) map[v1.Hash]string {
	if lock.Base.Reference == "" {
		return nil
	}
	base, err := cachedimage.Open(c, digest.Digest(lock.Base.Digest))
	if err != nil {
		return nil
	}
	named, err := reference.ParseNormalizedNamed(lock.Base.Reference)
	if err != nil {
		return nil
	}
	manifest, err := base.Manifest()
	if err != nil {
		return nil
	}
	mounts := map[v1.Hash]string{}
	for _, layer := range manifest.Layers {
		mounts[layer.Digest] = named.Name()
	}
	return mounts
}
