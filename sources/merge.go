package sources

import (
	"cmp"
	"fmt"
	"slices"

	"github.com/nodeimg/nodeimg/recipes"
)

// mergeImages joins the images of Kubernetes and those of each entry of the recipe, sorted by reference. A name may come several times
// only with one digest.
func mergeImages(document *recipes.Document, kubernetes []recipes.LockedImage, user [][]recipes.LockedImage) ([]recipes.LockedImage, error) {
	first := map[string]mention{}
	var merged []recipes.LockedImage
	var problems []recipes.Problem
	add := func(m mention) {
		before, again := first[m.image.Reference]
		switch {
		case !again:
			first[m.image.Reference] = m
			merged = append(merged, m.image)
		case before.image.Digest != m.image.Digest:
			problems = append(problems, document.Problem(m.field(), "%s is %s in %s, but %s in %s; a node knows one image by a name, so remove one of them",
				m.image.Reference, m.image.Digest, m.image.Source, before.image.Digest, before.describe(document)))
		}
	}
	for _, image := range kubernetes {
		add(mention{image, -1})
	}
	for i, images := range user {
		for _, image := range images {
			add(mention{image, i})
		}
	}
	if len(problems) > 0 {
		return nil, recipes.NewInputError(problems...)
	}
	slices.SortStableFunc(merged, func(a, b recipes.LockedImage) int { return cmp.Compare(a.Reference, b.Reference) })
	return merged, nil
}

// mention is an image and the entry of the recipe that names it; the entry is negative where Kubernetes itself needs the image.
type mention struct {
	image recipes.LockedImage
	entry int
}

func (m mention) field() string {
	if m.entry < 0 {
		return "spec.preload.controlPlane"
	}
	return fmt.Sprintf("spec.preload.images[%d]", m.entry)
}

// describe names the source and its place in the recipe.
func (m mention) describe(document *recipes.Document) string {
	if m.entry < 0 {
		return fmt.Sprintf("the images that Kubernetes %s needs", document.Recipe.Spec.Kubernetes.Version)
	}
	line, column := document.Position(m.field())
	return fmt.Sprintf("%s (%s, %s:%d:%d)", m.image.Source, m.field(), document.File, line, column)
}
