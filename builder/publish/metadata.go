package publish

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/nodeimg/nodeimg/recipes"
)

// Metadata is the content of --metadata-file: docker buildx's keys for an image, then nodeimg's own.
type Metadata struct {
	// ConfigDigest is the config's digest, the image's id in the Docker Engine.
	ConfigDigest string `json:"containerimage.config.digest"`
	// Descriptor of the manifest, with platform.
	Descriptor v1.Descriptor `json:"containerimage.descriptor"`
	// Digest of the manifest.
	Digest string `json:"containerimage.digest"`
	// ImageName is the names that the image was given, separated by commas.
	ImageName string `json:"image.name,omitempty"`
	// Recipe is the image's content id (label dev.nodeimg.recipe).
	Recipe string `json:"nodeimg.recipe,omitempty"`
	// Lock is what the image was built from.
	Lock *recipes.Lock `json:"nodeimg.lock,omitempty"`
	// References are the pushed references with digest.
	References []string `json:"nodeimg.references,omitempty"`
	// Timings are how long each part of the build took, in seconds.
	Timings map[string]float64 `json:"nodeimg.timings,omitempty"`
}

// NewMetadata describes img under the names. Lock may be nil; References and Timings are left to the caller.
func NewMetadata(img v1.Image, names []string, lock *recipes.Lock) (Metadata, error) {
	descriptor, err := describe(img)
	if err != nil {
		return Metadata{}, fmt.Errorf("describing the image: %w", err)
	}
	config, err := img.ConfigName()
	if err != nil {
		return Metadata{}, fmt.Errorf("describing the image: %w", err)
	}
	file, err := img.ConfigFile()
	if err != nil {
		return Metadata{}, fmt.Errorf("describing the image: %w", err)
	}
	return Metadata{
		ConfigDigest: config.String(),
		Descriptor:   descriptor,
		Digest:       descriptor.Digest.String(),
		ImageName:    strings.Join(names, ","),
		Recipe:       file.Config.Labels[recipes.LabelRecipe],
		Lock:         lock,
	}, nil
}

// WriteMetadata writes m as JSON to file, which appears by rename.
func WriteMetadata(file string, m Metadata) error {
	content, err := json.MarshalIndent(m, "", "  ")
	if err != nil {
		return fmt.Errorf("writing metadata file %s: %w", file, err)
	}
	if err := writeFile(file, func(w io.Writer) error {
		_, err := w.Write(append(content, '\n'))
		return err
	}); err != nil {
		return fmt.Errorf("writing metadata file %s: %w", file, err)
	}
	return nil
}
