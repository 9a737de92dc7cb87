package nodeimage

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/opencontainers/go-digest"

	"github.com/nodeimg/nodeimg/dockerfiles"
	"github.com/nodeimg/nodeimg/internal/cache"
	"github.com/nodeimg/nodeimg/internal/cachedimage"
)

// memoryFormat is part of the key; it changes whenever the same inputs would be completed to another image.
const memoryFormat = "5"

// nodeKey names what BuildKit's result is a function of: the Dockerfile, the content of every context, and the time.
func nodeKey(compiled *dockerfiles.Result, epoch time.Time) (string, error) {
	contexts, err := json.Marshal(compiled.Contexts)
	if err != nil {
		return "", fmt.Errorf("encoding the build contexts: %w", err)
	}
	text := fmt.Sprintf("%s\n%d\n%s\n%s\n", memoryFormat, epoch.Unix(), digest.FromBytes(compiled.Dockerfile), digest.FromBytes(contexts))
	return "node-" + digest.FromString(text).Encoded(), nil
}

// imageKey names what the finished image is a function of: BuildKit's result, by its nodeKey, the store and the labels.
func imageKey(node string, s *store, labels map[string]string) (string, error) {
	d := digest.SHA256.Digester()
	fmt.Fprintln(d.Hash(), node)
	for _, layer := range s.layers {
		hash, err := layer.Digest()
		if err != nil {
			return "", fmt.Errorf("reading a layer of preloaded images: %w", err)
		}
		fmt.Fprintf(d.Hash(), "%s %q\n", hash, layer.References)
	}
	for _, f := range s.files {
		fmt.Fprintf(d.Hash(), "%s %s %s\n", f.path, digest.FromBytes(f.content), f.link)
	}
	for _, name := range slices.Sorted(maps.Keys(labels)) {
		fmt.Fprintf(d.Hash(), "%s=%q\n", name, labels[name])
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
	d, err := cachedimage.Put(c, image)
	if err != nil {
		return nil, err
	}
	if err := c.PutFact(key, d); err != nil {
		return nil, err
	}
	return cachedimage.Open(c, d)
}
