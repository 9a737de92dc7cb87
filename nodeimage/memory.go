package nodeimage

import (
	"encoding/json"
	"fmt"
	"io"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/opencontainers/go-digest"

	"github.com/nodeimg/nodeimg/dockerfiles"
	"github.com/nodeimg/nodeimg/internal/cache"
	"github.com/nodeimg/nodeimg/internal/cachedimage"
)

// memoryFormat is part of the key; it changes whenever the same inputs would be completed to another image.
const memoryFormat = "2"

// imageKey names what an image is a function of: the Dockerfile, the content of every context, the store's files and the time.
func imageKey(compiled *dockerfiles.Result, files []file, epoch time.Time) (string, error) {
	contexts, err := json.Marshal(compiled.Contexts)
	if err != nil {
		return "", fmt.Errorf("encoding the build contexts: %w", err)
	}
	d := digest.SHA256.Digester()
	fmt.Fprintf(d.Hash(), "%s\n%d\n%s\n%s\n", memoryFormat, epoch.Unix(), digest.FromBytes(compiled.Dockerfile), digest.FromBytes(contexts))
	for _, f := range files {
		fmt.Fprintf(d.Hash(), "%s %s\n", f.path, digest.FromBytes(f.content))
	}
	return "image-" + d.Digest().Encoded(), nil
}

// remembered returns the image that an earlier build made for the key, if all of it is still in the cache.
func remembered(c *cache.Cache, key string) (v1.Image, bool) {
	var manifest digest.Digest
	if ok, err := c.Fact(key, &manifest); err != nil || !ok || !cachedimage.Complete(c, manifest) {
		return nil, false
	}
	image, err := cachedimage.Open(c, manifest)
	return image, err == nil
}

// remember puts the whole image into the cache and returns it from there, so that nothing of it depends on temporary files.
func remember(c *cache.Cache, key string, image v1.Image) (v1.Image, error) {
	layers, err := image.Layers()
	if err != nil {
		return nil, err
	}
	for _, layer := range layers {
		if err := storeLayer(c, layer); err != nil {
			return nil, fmt.Errorf("storing a layer in the cache: %w", err)
		}
	}
	config, err := image.RawConfigFile()
	if err != nil {
		return nil, err
	}
	manifest, err := image.RawManifest()
	if err != nil {
		return nil, err
	}
	if _, err := c.PutBytes(config); err != nil {
		return nil, err
	}
	d, err := c.PutBytes(manifest)
	if err != nil {
		return nil, err
	}
	if err := c.PutFact(key, d); err != nil {
		return nil, err
	}
	return cachedimage.Open(c, d)
}

func storeLayer(c *cache.Cache, layer v1.Layer) error {
	hash, err := layer.Digest()
	if err != nil {
		return err
	}
	d := digest.Digest(hash.String())
	if c.Has(d) {
		return nil
	}
	r, err := layer.Compressed()
	if err != nil {
		return err
	}
	_, _, err = c.Put(r, d)
	if closeErr := r.Close(); err == nil && closeErr != nil && closeErr != io.EOF {
		err = closeErr
	}
	return err
}
