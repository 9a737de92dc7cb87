package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/nodeimg/nodeimg/builder/publish"
	"github.com/nodeimg/nodeimg/internal/cache"
	"github.com/nodeimg/nodeimg/internal/dockerengine"
	"github.com/nodeimg/nodeimg/internal/progress"
	"github.com/nodeimg/nodeimg/nodeimage"
	"github.com/nodeimg/nodeimg/recipes"
	"github.com/nodeimg/nodeimg/sources"
)

// isText says that the path is a file that begins with text, as recipes do and archives do not: compressed or not, they have bytes that no
// text has.
func isText(path string) (bool, error) {
	f, err := os.Open(path)
	if err != nil {
		return false, recipes.InputErrorf("%v", err)
	}
	defer f.Close()
	if info, err := f.Stat(); err != nil || !info.Mode().IsRegular() {
		return false, err
	}
	const block = 512 // Of a tar; the first has zeros.
	start, err := io.ReadAll(io.LimitReader(f, block))
	if err != nil {
		return false, fmt.Errorf("reading %s: %w", path, err)
	}
	for cut := 1; cut < utf8.UTFMax && len(start) > block-utf8.UTFMax && !utf8.Valid(start); cut++ {
		start = start[:len(start)-1] // The end of the block may lie within a character.
	}
	return utf8.Valid(start) && !bytes.ContainsRune(start, 0), nil
}

// recipeImage returns the name of the recipe's image in the Engine: of the one that has its content id, else of the one that it builds.
func recipeImage(ctx context.Context, engine *dockerengine.Engine, path string) (name string, err error) {
	documents, err := recipes.Load(path, nil)
	if err != nil {
		return "", err
	}
	if len(documents) > 1 {
		return "", recipes.InputErrorf("%s holds %d recipes, expected one; put the recipes into files of their own", path, len(documents))
	}
	document := documents[0]
	epoch, err := sourceDateEpoch()
	if err != nil {
		return "", err
	}
	store, err := cache.Open("")
	if err != nil {
		return "", err
	}
	if epoch.IsZero() {
		epoch = nodeimage.DefaultEpoch
	}
	options := nodeimage.Options{Cache: store, Epoch: epoch, Engine: engine}
	if options.Lock, err = sources.Resolve(ctx, document, nodeimage.SourceOptions(options)); err != nil {
		return "", err
	}
	id := recipes.ContentID(&document.Recipe, options.Lock)
	found, err := engine.FindImages(ctx, recipes.LabelRecipe, id)
	if err != nil {
		return "", err
	}
	// What preload has changed is another image, and so is one that docker build or commit has made of it: that has the label still, but a
	// time of its own.
	found = slices.DeleteFunc(found, func(i dockerengine.Image) bool {
		return i.Labels[recipes.LabelChanged] != "" || !i.Created.Equal(epoch)
	})
	if len(found) > 0 {
		step := progress.Start(ctx, "[build] %s, the Docker Engine has it", document.Recipe.Metadata.Name)
		step.Cached()
		_ = step.Done(nil)
		if len(found[0].Tags) > 0 {
			return found[0].Tags[0], nil
		}
		return found[0].ID.String(), nil
	}
	b, err := openBuilder(buildOptions{workerRuntime: "auto"}, store)
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, b.Close()) }()
	_, id, _ = strings.Cut(id, ":")
	name = "nodeimg-up/" + document.Recipe.Metadata.Name + ":" + id[:12]
	options.Builder, options.Outputs, options.Tags = b, []publish.Output{{Type: publish.OutputDocker}}, []string{name}
	_, err = nodeimage.Build(ctx, document, options)
	return name, err
}
