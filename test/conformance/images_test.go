package conformance

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"runtime"
	"strings"
	"sync"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// row is one nasty image.
type row struct {
	name   string
	layers []layer
	// docker makes it an image of Docker's schema 2 instead of OCI's.
	docker bool
	// user is the config's user.
	user string
	// index puts the image into an index, with one of another platform and with what BuildKit attests beside it.
	index bool
	// refused says that containerd's overlayfs snapshotter refuses the image. Then the native snapshotter is the reference for trees
	// that nodeimg unpacks itself.
	refused bool
	// impossible says that the native snapshotter refuses it too: no container can run of it anywhere.
	impossible bool
	// unfit says that nodeimg leaves the image packed in every layout.
	unfit bool
}

// layer is one layer of a row.
type layer struct {
	entries []entry
	// tar is the layer's tar instead of the entries.
	tar []byte
	format
	// mediaType is the one that goes with the format unless given.
	mediaType types.MediaType
}

// of makes a plain layer.
func of(entries ...entry) layer { return layer{entries: entries} }

// seeds are put into the bottom layers of all images, and so into every chain id.
type seeds string

const (
	// fixed makes the same images in every run: what a pull in a build step yields may come from BuildKit's cache.
	fixed seeds = "fixed"
	// fresh makes other images whenever this program changes, which holds nodeimg's code: no result of other code comes from nodeimg's
	// cache, and running the same code again is quick.
	fresh seeds = "fresh"
)

// content of the file "seed".
func (s seeds) content() (string, error) {
	if s == fresh {
		return ownDigest()
	}
	return strings.Repeat("f", 64), nil
}

var ownDigest = sync.OnceValues(func() (string, error) {
	self, err := os.Open("/proc/self/exe")
	if err != nil {
		return "", err
	}
	defer self.Close()
	h := sha256.New()
	if _, err := io.Copy(h, self); err != nil {
		return "", err
	}
	return hex.EncodeToString(h.Sum(nil)), nil
})

// image makes the row's image or index.
func (r row) image(s seeds) (remote.Taggable, error) {
	own, foreign := runtime.GOARCH, "arm64"
	if own == foreign {
		foreign = "amd64"
	}
	image, err := r.single(own, s)
	if err != nil {
		return nil, fmt.Errorf("making %s: %w", r.name, err)
	}
	if !r.index {
		return image, nil
	}
	other := row{name: r.name, docker: r.docker, layers: []layer{of(file("foreign", "another platform"))}}
	others, err := other.single(foreign, s)
	if err != nil {
		return nil, fmt.Errorf("making %s: %w", r.name, err)
	}
	attested := row{name: r.name, docker: r.docker, layers: []layer{of(file("attestation", "no image at all"))}}
	attestation, err := attested.single("unknown", s)
	if err != nil {
		return nil, fmt.Errorf("making %s: %w", r.name, err)
	}
	digest, err := image.Digest()
	if err != nil {
		return nil, err
	}
	list := mutate.IndexMediaType(empty.Index, types.OCIImageIndex)
	if r.docker {
		list = mutate.IndexMediaType(empty.Index, types.DockerManifestList)
	}
	return mutate.AppendManifests(list,
		// The other one comes first: nobody may just take the first.
		mutate.IndexAddendum{Add: others, Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: foreign}}},
		mutate.IndexAddendum{Add: image, Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: own}}},
		mutate.IndexAddendum{Add: attestation, Descriptor: v1.Descriptor{
			Platform:    &v1.Platform{OS: "unknown", Architecture: "unknown"},
			Annotations: map[string]string{"vnd.docker.reference.type": "attestation-manifest", "vnd.docker.reference.digest": digest.String()},
		}}), nil
}

func (r row) single(architecture string, s seeds) (v1.Image, error) {
	content, err := s.content()
	if err != nil {
		return nil, err
	}
	image := mutate.ConfigMediaType(mutate.MediaType(empty.Image, types.OCIManifestSchema1), types.OCIConfigJSON)
	if r.docker {
		image = empty.Image
	}
	config := &v1.ConfigFile{OS: "linux", Architecture: architecture, RootFS: v1.RootFS{Type: "layers"}}
	if architecture == "unknown" {
		config.OS = "unknown"
	}
	// The row's name makes images of the same layers different images.
	config.Config = v1.Config{User: r.user, Cmd: []string{"/none"}, Labels: map[string]string{"row": r.name}}
	if image, err = mutate.ConfigFile(image, config); err != nil {
		return nil, err
	}
	for i, l := range r.layers {
		if i == 0 {
			l.entries = append([]entry{file("seed", content)}, l.entries...)
		}
		if l.tar == nil {
			if l.tar, err = tarOf(l.entries); err != nil {
				return nil, fmt.Errorf("layer %d: %w", i, err)
			}
		}
		if r.docker && l.mediaType == "" {
			l.mediaType = types.DockerLayer
		}
		b, err := newBlob(l.tar, l.format, l.mediaType)
		if err != nil {
			return nil, fmt.Errorf("layer %d: %w", i, err)
		}
		if image, err = mutate.Append(image, mutate.Addendum{Layer: b, MediaType: b.mediaType, History: v1.History{CreatedBy: r.name}}); err != nil {
			return nil, fmt.Errorf("layer %d: %w", i, err)
		}
	}
	return image, nil
}
