package main

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/nodeimg/nodeimg/builder/display"
	"github.com/nodeimg/nodeimg/builder/publish"
	"github.com/nodeimg/nodeimg/internal/cache"
	"github.com/nodeimg/nodeimg/internal/dockerengine"
	"github.com/nodeimg/nodeimg/internal/progress"
	"github.com/nodeimg/nodeimg/nodeimage"
	"github.com/nodeimg/nodeimg/nodeimage/inspect"
	"github.com/nodeimg/nodeimg/recipes"
)

type preloadOptions struct {
	outputOptions
	images   []string
	remove   []string
	load     bool
	layout   string
	platform string
}

func newPreloadCommand() *cobra.Command {
	var options preloadOptions
	cmd := &cobra.Command{
		Use:   "preload IMAGE [-i SOURCE]... [--remove REFERENCE]... (--push | --load | -o OUTPUT)",
		Short: "Add images to a node image, replace them and remove them",
		Long: "Add images to a node image that is built already, replace them and remove them, without BuildKit. IMAGE is a folder with an OCI\n" +
			"layout, an OCI archive or docker-archive, docker:NAME for an image of the local Docker Engine, or else a reference in a registry,\n" +
			"of which only the small layer on top is downloaded. SOURCE is archive:FILE, docker:NAME, layout:FOLDER, or else a reference in a\n" +
			"registry; an image whose name is there already is replaced.\n\n" +
			"IMAGE itself stays as it is unless the result is written to the same place. Standard output gets the result's reference with its\n" +
			"digest and nothing else.",
		Example: "  nodeimg preload registry.example/k8s-node:v1.34.10 -i registry.example/app:1.0 --push -t registry.example/k8s-node:app\n" +
			"  nodeimg preload docker:k8s-node:v1.34.10 -i docker:app:dev --load -t k8s-node:dev\n" +
			"  nodeimg preload out/k8s-node -i archive:app.tar --remove docker.io/library/nginx:1.29 -o type=oci,dest=out/k8s-node",
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return runPreload(cmd.Context(), args[0], options, cmd.OutOrStdout(), cmd.ErrOrStderr())
		},
	}
	flags := cmd.Flags()
	options.register(flags)
	flags.StringArrayVarP(&options.images, "image", "i", nil, "image to add: REFERENCE, archive:FILE, docker:NAME or layout:FOLDER (repeatable)")
	flags.StringArrayVar(&options.remove, "remove", nil, "reference of an image to remove (repeatable)")
	flags.BoolVar(&options.load, "load", false, "load into the Docker Engine under every --tag, as -o type=docker does")
	flags.StringVar(&options.layout, "layout", string(recipes.LayoutUnpacked), "how added images lie in the node: unpacked, ready to start, or packed, as in a registry")
	flags.StringVar(&options.platform, "platform", "", "which of several node images to change, as os/arch")
	return cmd
}

func runPreload(ctx context.Context, target string, o preloadOptions, stdout, stderr io.Writer) error {
	change, err := o.change(target)
	if err != nil {
		return err
	}
	if change.Epoch, err = sourceDateEpoch(); err != nil {
		return err
	}
	screen, err := display.New(o.progress, stderr)
	if err != nil {
		return err
	}
	defer screen.Close()
	ctx = progress.WithSink(ctx, screen.Sink())
	if change.Cache, err = cache.Open(""); err != nil {
		return err
	}
	if o.needsEngine(target, change) {
		if change.Engine, err = dockerengine.Open(ctx); err != nil {
			return err
		}
		defer change.Engine.Close()
	}
	start := time.Now()
	result, err := nodeimage.Preload(ctx, target, change)
	if err != nil {
		return err
	}
	if o.metadataFile != "" {
		result.Metadata.Timings = map[string]float64{"total": time.Since(start).Seconds()}
		if err := publish.WriteMetadata(o.metadataFile, result.Metadata); err != nil {
			return err
		}
	}
	screen.Close()
	for _, warning := range result.Warnings {
		fmt.Fprintf(stderr, "Warning: %s\n", warning)
	}
	for _, reference := range result.References {
		fmt.Fprintln(stdout, reference)
	}
	if o.timings {
		return display.PrintTimings(stderr, screen.Timings())
	}
	return nil
}

// change reads the flags.
func (o preloadOptions) change(target string) (nodeimage.PreloadOptions, error) {
	change := nodeimage.PreloadOptions{Platform: o.platform, Remove: o.remove, Layout: recipes.Layout(o.layout)}
	change.Tags, change.Push, change.InsecureRegistries = o.tags, o.push, o.insecureRegistries
	if change.Layout != recipes.LayoutUnpacked && change.Layout != recipes.LayoutPacked {
		return change, recipes.InputErrorf("--layout %q: expected %s or %s", o.layout, recipes.LayoutUnpacked, recipes.LayoutPacked)
	}
	for _, text := range o.images {
		source, err := nodeimage.ParseSource(text)
		if err != nil {
			return change, err
		}
		change.Add = append(change.Add, source)
	}
	var err error
	if change.Outputs, err = o.parse(); err != nil {
		return change, err
	}
	if o.load {
		if len(o.tags) == 0 {
			return change, recipes.InputErrorf("--load: give the name that the image gets in the Docker Engine with -t")
		}
		if !slices.ContainsFunc(change.Outputs, loads) {
			change.Outputs = append(change.Outputs, publish.Output{Type: publish.OutputDocker})
		}
	}
	if len(change.Outputs) == 0 && !o.push {
		return change, recipes.InputErrorf("say where the result goes: with --push or --load and a name with -t, or with -o; to change %s itself: %s", target, inPlace(target))
	}
	return change, nil
}

// inPlace are the flags that put the result where target is.
func inPlace(target string) string {
	name, isDocker := strings.CutPrefix(target, inspect.DockerPrefix)
	switch {
	case isDocker:
		return "--load -t " + name
	case inspect.InRegistry(target):
		return "--push -t " + target
	default:
		return "-o type=oci,dest=" + target + " for a folder, -o type=oci-archive,dest=" + target + " for a file"
	}
}

// needsEngine says whether anything comes from the Docker Engine or goes there.
func (o preloadOptions) needsEngine(target string, change nodeimage.PreloadOptions) bool {
	return strings.HasPrefix(target, inspect.DockerPrefix) || slices.ContainsFunc(change.Outputs, loads) ||
		slices.ContainsFunc(change.Add, func(s recipes.ImageSource) bool { return s.Docker != "" })
}
