package inspect

import (
	"encoding/json"
	"fmt"
	"strings"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/nodeimg/nodeimg/recipes"
)

// Report is what "nodeimg inspect" says about a node image.
type Report struct {
	// Reference is where the image was found, as the user named it.
	Reference string `json:"reference"`
	// Digest of the image's manifest.
	Digest string `json:"digest"`
	// Platform of the image, for instance linux/amd64.
	Platform string `json:"platform"`
	// Created is the config's time stamp.
	Created time.Time `json:"created"`
	// Size is the sum of manifest, config and layers as transferred, in bytes.
	Size int64 `json:"size"`
	// Name is the recipe's name, Recipe the image's content id.
	Name   string `json:"name"`
	Recipe string `json:"recipe"`
	// Kubernetes is the Kubernetes version, for instance v1.34.10.
	Kubernetes string `json:"kubernetes"`
	// Distro and CRI with their versions.
	Distro Component `json:"distro"`
	CRI    Component `json:"cri"`
	// CNI is the pod network, for instance flannel.
	CNI string `json:"cni"`
	// Preloaded are the images that lie ready in the node.
	Preloaded []recipes.Preloaded `json:"preloaded"`
	// Changed says how Preloaded differs from what the recipe's build put in.
	Changed []recipes.Changed `json:"changed,omitempty"`
	// Layers of the image, the lowest first.
	Layers []Layer `json:"layers"`
	// Labels are all labels of the image but those about preloaded images.
	Labels map[string]string `json:"labels"`
}

// Component is a part of the node with its version.
type Component struct {
	Name    string `json:"name"`
	Version string `json:"version,omitempty"`
}

// String renders name and version with a space between them.
func (c Component) String() string { return strings.TrimSpace(c.Name + " " + c.Version) }

// Layer is one layer of the image.
type Layer struct {
	Digest string `json:"digest"`
	// Size as transferred, in bytes.
	Size      int64  `json:"size"`
	MediaType string `json:"mediaType"`
	// Holds says in words what the layer holds, as far as its history tells.
	Holds string `json:"holds"`
	// CreatedBy is the history's instruction, shortened.
	CreatedBy string `json:"createdBy,omitempty"`
}

// Image reads a node image. Reference is what errors and the report call it. The error is a *recipes.InputError when it is an image but
// no node image.
func Image(img v1.Image, reference string) (*Report, error) {
	config, err := img.ConfigFile()
	if err != nil {
		return nil, fmt.Errorf("inspecting %s: reading its config: %w", reference, err)
	}
	manifest, err := img.Manifest()
	if err != nil {
		return nil, fmt.Errorf("inspecting %s: reading its manifest: %w", reference, err)
	}
	hash, err := img.Digest()
	if err != nil {
		return nil, fmt.Errorf("inspecting %s: reading its manifest: %w", reference, err)
	}
	size, err := img.Size()
	if err != nil {
		return nil, fmt.Errorf("inspecting %s: reading its manifest: %w", reference, err)
	}
	labels := config.Config.Labels
	for _, needed := range []string{recipes.LabelKubernetes, recipes.LabelName, recipes.LabelRecipe} {
		if labels[needed] == "" {
			return nil, recipes.InputErrorf("%s is not a node image that nodeimg built: it lacks the label %s", reference, needed)
		}
	}
	r := &Report{
		Reference: reference, Digest: hash.String(), Platform: platform(config), Created: config.Created.UTC(),
		Size: size + manifest.Config.Size,
		Name: labels[recipes.LabelName], Recipe: labels[recipes.LabelRecipe], Kubernetes: labels[recipes.LabelKubernetes],
		Distro: component(labels[recipes.LabelDistro]), CRI: component(labels[recipes.LabelCRI]), CNI: labels[recipes.LabelCNI],
		Preloaded: []recipes.Preloaded{}, Layers: []Layer{}, Labels: map[string]string{},
	}
	if text := labels[recipes.LabelPreloaded]; text != "" {
		if err := json.Unmarshal([]byte(text), &r.Preloaded); err != nil {
			return nil, recipes.InputErrorf("%s is damaged: its label %s: %v", reference, recipes.LabelPreloaded, err)
		}
	}
	if text := labels[recipes.LabelChanged]; text != "" {
		if err := json.Unmarshal([]byte(text), &r.Changed); err != nil {
			return nil, recipes.InputErrorf("%s is damaged: its label %s: %v", reference, recipes.LabelChanged, err)
		}
	}
	for key, value := range labels {
		if key != recipes.LabelPreloaded && key != recipes.LabelChanged {
			r.Labels[key] = value
		}
	}
	texts := describeLayers(config, len(manifest.Layers), r)
	for i, layer := range manifest.Layers {
		r.Size += layer.Size
		r.Layers = append(r.Layers, Layer{
			Digest: layer.Digest.String(), Size: layer.Size, MediaType: string(layer.MediaType), Holds: texts[i].holds, CreatedBy: texts[i].createdBy,
		})
	}
	return r, nil
}

// platform leaves out the operating system's version, which linux images do not have.
func platform(config *v1.ConfigFile) string {
	text := config.OS + "/" + config.Architecture
	if config.Variant != "" {
		text += "/" + config.Variant
	}
	return text
}

// component splits a label like "containerd 2.4.2".
func component(label string) Component {
	name, version, _ := strings.Cut(label, " ")
	return Component{Name: name, Version: version}
}
