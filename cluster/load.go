package cluster

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/nodeimg/nodeimg/internal/cache"
	"github.com/nodeimg/nodeimg/internal/dockerengine"
	"github.com/nodeimg/nodeimg/internal/progress"
	"github.com/nodeimg/nodeimg/preload"
	"github.com/nodeimg/nodeimg/recipes"
)

// LoadOptions say which images go into which cluster.
type LoadOptions struct {
	Engine *dockerengine.Engine
	// Name is the cluster's.
	Name string
	// Images are what to load; of an archive or a layout every image.
	Images []recipes.ImageSource
	// Sources find the images.
	Sources *preload.Sources
}

// Loaded tells what one node got.
type Loaded struct {
	Node string
	// Sent and Present are the bytes that were sent to the node and those that it had already: of manifests, configs and layers, or of
	// files when its runtime takes unpacked images.
	Sent, Present int64
}

// Load brings images into every node of a running cluster, all nodes at once. A node gets only the layers that it lacks, and none when it
// has the very same images. Images can be used when Load returns. An interrupted Load leaves no image that is not whole; what it sent is
// collected by the nodes' own garbage collectors, with CRI-O at once. The error is a *recipes.InputError when there is no such cluster or
// image, and when the nodes' runtime takes no images. Nodes that got everything are reported also when others fail.
func Load(ctx context.Context, o LoadOptions) ([]recipes.LockedImage, []Loaded, error) {
	nodes, err := loadable(ctx, o)
	if err != nil {
		return nil, nil, err
	}
	images, err := o.resolve(ctx, nodes[0])
	if err != nil {
		return nil, nil, err
	}
	contents := make([]imageContent, 0, len(images))
	for _, image := range images {
		if err := o.Sources.Fetch(ctx, image); err != nil {
			return nil, nil, err
		}
		content, err := readContent(o.Sources.Cache, image)
		if err != nil {
			return nil, nil, err
		}
		contents = append(contents, content)
	}
	var trees []unpacked
	if slices.ContainsFunc(nodes, func(n Node) bool { return runtime(n) == recipes.CRICRIO }) {
		if trees, err = unpack(ctx, o.Sources.Cache, contents); err != nil {
			return nil, nil, err
		}
	}
	reports, errs := make([]Loaded, len(nodes)), make([]error, len(nodes))
	var group sync.WaitGroup
	for i, n := range nodes {
		group.Go(func() {
			if runtime(n) == recipes.CRICRIO {
				reports[i], errs[i] = (&crioLoading{engine: o.Engine, cache: o.Sources.Cache, node: n, images: trees}).run(ctx)
			} else {
				reports[i], errs[i] = (&loading{engine: o.Engine, cache: o.Sources.Cache, node: n, store: stores[runtime(n)], images: contents}).run(ctx)
			}
			if errs[i] != nil {
				errs[i] = fmt.Errorf("loading images into node %s: %w", n.Name, errs[i])
			}
		})
	}
	group.Wait()
	var done []Loaded
	for i, report := range reports {
		if errs[i] == nil {
			done = append(done, report)
		}
	}
	return images, done, errors.Join(errs...)
}

// loadable returns the nodes of the cluster, all of which run and take images.
func loadable(ctx context.Context, o LoadOptions) ([]Node, error) {
	c, err := get(ctx, o.Engine, o.Name)
	if err != nil {
		return nil, err
	}
	if len(c.Nodes) == 0 {
		return nil, recipes.InputErrorf("the cluster %s has no nodes; nodeimg down --name %[1]s removes what is left of it", o.Name)
	}
	return c.Nodes, checkLoadable(c.Nodes)
}

func checkLoadable(nodes []Node) error {
	var said []string
	for _, n := range nodes {
		if n.State != stateRunning {
			said = append(said, n.Name+" ("+n.State+")")
		}
	}
	if len(said) > 0 {
		return fmt.Errorf("nothing was loaded, because nodes do not run: %s; start them with nodeimg start --name %s", strings.Join(said, ", "), nodes[0].Labels[LabelCluster])
	}
	for _, n := range nodes {
		if _, ok := stores[runtime(n)]; !ok && runtime(n) != recipes.CRICRIO {
			return recipes.InputErrorf("node %s runs containers with %q, which this nodeimg cannot load images into; add them to the node image with "+
				"nodeimg preload docker:%s -i SOURCE --load -t NAME, and make the cluster of that", n.Name, runtime(n), n.Image)
		}
	}
	return nil
}

// runtime is the node's container runtime, as its image says.
func runtime(n Node) recipes.CRIName {
	name, _, _ := strings.Cut(n.Labels[recipes.LabelCRI], " ")
	return recipes.CRIName(name)
}

// resolve finds the images for the platform of the nodes, which is that of their Engine.
func (o LoadOptions) resolve(ctx context.Context, n Node) ([]recipes.LockedImage, error) {
	image, err := o.Engine.Inspect(ctx, n.Image)
	if err != nil {
		return nil, err
	}
	var all []recipes.LockedImage
	digests := map[string]string{}
	for _, source := range o.Images {
		found, err := o.Sources.Resolve(ctx, source, image.OS+"/"+image.Architecture, recipes.RoleUser)
		if err != nil {
			return nil, err
		}
		for _, f := range found {
			switch digests[f.Reference] {
			case "":
				digests[f.Reference] = f.Digest
				all = append(all, f)
			case f.Digest:
			default:
				return nil, recipes.InputErrorf("two images are called %s: %s and %s; load one of them", f.Reference, digests[f.Reference], f.Digest)
			}
		}
	}
	return all, nil
}

// imageContent is an image with what it consists of.
type imageContent struct {
	recipes.LockedImage
	parts preload.Parts
	// blobs has each blob once.
	blobs []ocispec.Descriptor
}

func readContent(c *cache.Cache, image recipes.LockedImage) (imageContent, error) {
	content := imageContent{LockedImage: image}
	var err error
	if content.parts, err = preload.ReadParts(c, image); err != nil {
		return content, err
	}
	content.blobs, err = preload.Blobs(c, image)
	return content, err
}

// missing are the blobs of the images that are not there, each once, and the bytes of those that are.
func missing(images []imageContent, there map[digest.Digest]bool) (lacking []ocispec.Descriptor, present int64) {
	seen := map[digest.Digest]bool{}
	for _, image := range images {
		for _, d := range image.blobs {
			switch {
			case seen[d.Digest]:
			case there[d.Digest]:
				present += d.Size
			default:
				lacking = append(lacking, d)
			}
			seen[d.Digest] = true
		}
	}
	return lacking, present
}

// writeLayout writes an OCI layout that has only the blobs given. What names the images comes last: cut short, it is none.
func writeLayout(w io.Writer, c *cache.Cache, blobs []ocispec.Descriptor, index []byte, step *progress.Step) error {
	out := tar.NewWriter(w)
	for _, d := range blobs {
		if err := writeBlob(out, c, d, step); err != nil {
			return err
		}
	}
	for _, file := range []struct {
		name    string
		content []byte
	}{{ocispec.ImageIndexFile, index}, {ocispec.ImageLayoutFile, []byte(preload.LayoutFile)}} {
		if err := out.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: file.name, Mode: 0o444, Size: int64(len(file.content))}); err != nil {
			return err
		}
		if _, err := out.Write(file.content); err != nil {
			return err
		}
	}
	return out.Close()
}

func writeBlob(out *tar.Writer, c *cache.Cache, d ocispec.Descriptor, step *progress.Step) error {
	f, err := c.Open(d.Digest)
	if err != nil {
		return err
	}
	defer f.Close()
	name := "blobs/" + d.Digest.Algorithm().String() + "/" + d.Digest.Encoded()
	if err := out.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o444, Size: d.Size}); err != nil {
		return err
	}
	if _, err := io.Copy(out, step.Reader(f)); err != nil {
		return fmt.Errorf("sending blob %s: %w", d.Digest, err)
	}
	return nil
}
