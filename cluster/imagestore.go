package cluster

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/containerd/containerd/v2/core/images"
	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/nodeimg/nodeimg/internal/cache"
	"github.com/nodeimg/nodeimg/internal/dockerengine"
	"github.com/nodeimg/nodeimg/internal/progress"
	"github.com/nodeimg/nodeimg/recipes"
)

// imageStore is how a runtime keeps images in containerd. Where containerd listens says the environment of the node image.
type imageStore struct {
	namespace string
	// labels of an image's record, as ctr takes them.
	labels []string
	// plugin says that containerd's CRI plugin keeps the images, and knows new ones a little after containerd.
	plugin bool
}

// stores are those of the runtimes that keep images in containerd. Namespaces and labels are those of package preload, except that a
// loaded image is not pinned: the kubelet may collect it.
var stores = map[recipes.CRIName]imageStore{
	recipes.CRIContainerd: {namespace: "k8s.io", labels: []string{"io.cri-containerd.image=managed"}, plugin: true},
	recipes.CRIDocker:     {namespace: "moby"},
}

// names are entries of an index.json, one for each name that the image gets: the reference, and for the CRI plugin name@digest, which the
// Docker Engine finds by itself. An image of an index is found by its own manifest's digest too (package preload, clients.go). The plugin
// adds the image id itself.
func (s imageStore) names(image imageContent) ([]ocispec.Descriptor, error) {
	named, err := reference.ParseNormalizedNamed(image.Reference)
	if err != nil {
		return nil, fmt.Errorf("reading the name %s: %w", image.Reference, err)
	}
	var list []ocispec.Descriptor
	seen := map[string]bool{}
	add := func(name string, d ocispec.Descriptor) {
		if !seen[name] {
			list = append(list, ocispec.Descriptor{
				MediaType: d.MediaType, Digest: d.Digest, Size: d.Size, Annotations: map[string]string{images.AnnotationImageName: name},
			})
			seen[name] = true
		}
	}
	add(image.Reference, image.parts.Target)
	for _, d := range []ocispec.Descriptor{image.parts.Target, image.parts.Manifest} {
		if !s.plugin && (d.Digest == image.parts.Target.Digest) {
			continue
		}
		digested, err := reference.WithDigest(reference.TrimNamed(named), d.Digest)
		if err != nil {
			return nil, fmt.Errorf("reading the name %s: %w", image.Reference, err)
		}
		add(digested.String(), d)
	}
	return list, nil
}

// imageName is the name of an entry.
func imageName(d ocispec.Descriptor) string { return d.Annotations[images.AnnotationImageName] }

// index is an index.json with the names of the images.
func (s imageStore) index(list []imageContent) (ocispec.Index, error) {
	index := ocispec.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex}
	for _, image := range list {
		names, err := s.names(image)
		if err != nil {
			return index, err
		}
		index.Manifests = append(index.Manifests, names...)
	}
	return index, nil
}

// held is what a node's containerd has.
type held struct {
	blobs map[digest.Digest]bool
	// whole are the names of images none of whose blobs is missing, with what they name.
	whole map[string]digest.Digest
}

// has says whether every name is there, names the same, and is whole.
func (h held) has(index ocispec.Index) (lacking string, ok bool) {
	for _, d := range index.Manifests {
		if name := imageName(d); h.whole[name] != d.Digest {
			return name, false
		}
	}
	return "", true
}

// parseHeld reads what "ctr content ls -q" and "ctr images check" print.
func parseHeld(content, check string) held {
	h := held{blobs: map[digest.Digest]bool{}, whole: map[string]digest.Digest{}}
	for _, line := range strings.Fields(content) {
		h.blobs[digest.Digest(line)] = true
	}
	for line := range strings.Lines(check) {
		// REF TYPE DIGEST STATUS …
		if fields := strings.Fields(line); len(fields) > 3 && fields[3] == "complete" {
			h.whole[fields[0]] = digest.Digest(fields[2])
		}
	}
	return h
}

// loading brings images into one node whose runtime keeps them in containerd.
type loading struct {
	engine *dockerengine.Engine
	cache  *cache.Cache
	node   Node
	store  imageStore
	images []imageContent
}

// mostTries is how often blobs are sent: containerd may collect some that no image uses between its answer and the import.
const mostTries = 3

func (l *loading) run(ctx context.Context) (Loaded, error) {
	report := Loaded{Node: l.node.Name}
	step := progress.Start(ctx, "[%s] load %d images", l.node.Name, len(l.images))
	err := step.Done(func() error {
		index, err := l.store.index(l.images)
		if err != nil {
			return err
		}
		for tries := 0; ; tries++ {
			have, err := l.held(ctx)
			if err != nil {
				return err
			}
			lacking, present := missing(l.images, have.blobs)
			if tries == 0 {
				report.Present = present
			}
			name, ok := have.has(index)
			if ok {
				if tries == 0 {
					step.Cached()
				}
				return l.visible(ctx)
			}
			if tries == mostTries {
				return fmt.Errorf("%s is not whole after %d imports; journalctl -u containerd in the node may say why", name, tries)
			}
			if err := l.send(ctx, lacking, index, step); err != nil {
				return err
			}
			for _, d := range lacking {
				report.Sent += d.Size
			}
		}
	}())
	return report, err
}

func (l *loading) ctr(ctx context.Context, stdin io.Reader, args ...string) (string, error) {
	return l.engine.Exec(ctx, l.node.ID, stdin, nil, append([]string{"ctr", "--namespace", l.store.namespace}, args...)...)
}

func (l *loading) held(ctx context.Context) (held, error) {
	content, err := l.ctr(ctx, nil, "content", "ls", "-q")
	if err != nil {
		return held{}, err
	}
	// It fails, after the whole table, when an image misses blobs, whichever it is.
	check, err := l.ctr(ctx, nil, "images", "check")
	if exit := new(dockerengine.ExitError); err != nil && !(errors.As(err, &exit) && strings.HasPrefix(check, "REF")) {
		return held{}, err
	}
	return parseHeld(content, check), nil
}

// send imports the blobs and the names in one go.
func (l *loading) send(ctx context.Context, blobs []ocispec.Descriptor, index ocispec.Index, step *progress.Step) error {
	encoded, err := json.Marshal(index)
	if err != nil {
		return err
	}
	var total int64
	for _, d := range blobs {
		total += d.Size
	}
	step.Total(total)
	args := []string{"images", "import", "--no-unpack"}
	for _, label := range l.store.labels {
		args = append(args, "--label", label)
	}
	return piped(
		func(w io.Writer) error { return writeLayout(w, l.cache, blobs, encoded, step) },
		func(r io.Reader) error {
			_, err := l.ctr(ctx, r, append(args, "-")...)
			return err
		})
}

// piped lets read have what write writes, while that is written. What went wrong with writing is told rather than what came of it.
func piped(write func(io.Writer) error, read func(io.Reader) error) error {
	r, w := io.Pipe()
	written := make(chan error, 1)
	go func() {
		err := write(w)
		w.CloseWithError(err)
		written <- err
	}()
	err := read(r)
	_ = r.Close()
	if writeErr := <-written; writeErr != nil && !errors.Is(writeErr, io.ErrClosedPipe) {
		return writeErr
	}
	return err
}

// visibleLimit is how long a runtime may take to see what has been put into its store; it is told at once.
const visibleLimit = time.Minute

var errNotVisible = fmt.Errorf("not within %s", visibleLimit)

// visible waits until the kubelet can see the images.
func (l *loading) visible(ctx context.Context) error {
	if !l.store.plugin {
		return nil
	}
	for _, image := range l.images {
		want := image.parts.Config.Digest
		err := untilEnd(ctx, visibleLimit, errNotVisible, func(ctx context.Context) error {
			id, err := imageID(ctx, l.engine, l.node, image.Reference)
			if err == nil && id != want.Encoded() {
				err = fmt.Errorf("it is %s", id)
			}
			return err
		})
		if err != nil {
			return fmt.Errorf("waiting until crictl shows %s as %s: %w", image.Reference, want, err)
		}
	}
	return nil
}

// imageID asks the node's CRI which image has the name, and returns its id without the algorithm, which not every runtime says. The error
// is a *dockerengine.ExitError when there is none.
func imageID(ctx context.Context, engine *dockerengine.Engine, n Node, name string) (string, error) {
	id, err := engine.Exec(ctx, n.ID, nil, nil, "crictl", "inspecti", "-o", "go-template", "--template", "{{.status.id}}", name)
	return strings.TrimPrefix(strings.TrimSpace(id), "sha256:"), err
}
