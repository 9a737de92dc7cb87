package main

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/nodeimg/nodeimg/builder/publish"
	"github.com/nodeimg/nodeimg/cluster/config"
	"github.com/nodeimg/nodeimg/internal/dockerengine"
	"github.com/nodeimg/nodeimg/nodeimage/inspect"
	"github.com/nodeimg/nodeimg/recipes"
)

// loadNodeImages makes the images of a description names in the Engine, each of which it looks for once. located says of an error where the
// image is named.
func loadNodeImages(ctx context.Context, engine *dockerengine.Engine, spec *config.Spec, located func(image string, err error) error) error {
	images := []*string{&spec.Image}
	for _, groups := range []config.Groups{spec.ControlPlanes, spec.Workers} {
		for i := range groups {
			images = append(images, &groups[i].Image)
		}
	}
	names := map[string]string{"": ""}
	for _, image := range images {
		name, known := names[*image]
		if !known {
			var err error
			if name, err = loadNodeImage(ctx, engine, *image); err != nil {
				return located(*image, err)
			}
			names[*image] = name
		}
		*image = name
	}
	return nil
}

// loadNodeImage returns the name of the image in the Engine; a layout or an archive is loaded and a recipe is built, unless the Engine has
// the same image.
func loadNodeImage(ctx context.Context, engine *dockerengine.Engine, target string) (string, error) {
	if _, err := os.Stat(target); err != nil {
		found, err := engine.Inspect(ctx, target)
		if missing := new(dockerengine.NotFoundError); errors.As(err, &missing) {
			return "", recipes.InputErrorf("%v, and there is no such file or folder", missing)
		}
		if err != nil {
			return "", err
		}
		if found.Labels[recipes.LabelKubernetes] == "" {
			return "", recipes.InputErrorf("%s is not a node image that nodeimg built: it lacks the label %s", target, recipes.LabelKubernetes)
		}
		return target, nil
	}
	recipe, err := isText(target)
	if err != nil {
		return "", err
	}
	if recipe {
		return recipeImage(ctx, engine, target)
	}
	img, closer, err := inspect.Open(ctx, target, inspect.Options{})
	if err != nil {
		return "", err
	}
	defer closer.Close()
	report, err := inspect.Image(img, target)
	if err != nil {
		return "", err
	}
	id, err := img.ConfigName()
	if err != nil {
		return "", fmt.Errorf("reading %s: %w", target, err)
	}
	name := "nodeimg-up/" + report.Name + ":" + id.Hex[:12]
	if _, err := engine.Inspect(ctx, name); err == nil {
		return name, nil
	}
	_, err = publish.Load(ctx, engine, img, []string{name})
	return name, err
}
