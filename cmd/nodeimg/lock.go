package main

import (
	"context"
	"fmt"
	"io"

	"github.com/spf13/cobra"
	"sigs.k8s.io/yaml"

	"github.com/nodeimg/nodeimg/builder/display"
	"github.com/nodeimg/nodeimg/internal/cache"
	"github.com/nodeimg/nodeimg/internal/progress"
	"github.com/nodeimg/nodeimg/nodeimage"
	"github.com/nodeimg/nodeimg/recipes"
	"github.com/nodeimg/nodeimg/sources"
)

// resolveOptions are the flags of the commands that resolve a recipe but build nothing.
type resolveOptions struct {
	progress           string
	insecureRegistries []string
}

func (o *resolveOptions) bind(cmd *cobra.Command) {
	cmd.Flags().StringVar(&o.progress, "progress", "auto", "how to show progress: auto, tty, plain, rawjson or quiet")
	cmd.Flags().StringArrayVar(&o.insecureRegistries, "insecure-registry", nil, "host[:port] of a registry to speak plain http to (repeatable; loopback always may)")
}

func newLockCommand() *cobra.Command {
	var options resolveOptions
	cmd := &cobra.Command{
		Use:   "lock RECIPE",
		Short: "Print what a recipe resolves to: every input by digest",
		Long: "Print what a recipe resolves to, as YAML: base, packages, programs, images and Go modules, each by digest. Inputs that are made\n" +
			"and not downloaded (kubernetes.source modules, base.from packages) are made for this, and kept in the cache for the build.",
		Example: "  nodeimg lock recipe.yaml",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return options.each(cmd, args[0], func(ctx context.Context, document *recipes.Document, build nodeimage.Options) error {
				lock, err := sources.Resolve(ctx, document, nodeimage.SourceOptions(build))
				if err != nil {
					return err
				}
				return printYAML(cmd.OutOrStdout(), lock)
			})
		},
	}
	options.bind(cmd)
	return cmd
}

// each loads the recipes of a file and calls do for each with a screen in the context and everything that resolving needs.
func (o *resolveOptions) each(cmd *cobra.Command, path string, do func(context.Context, *recipes.Document, nodeimage.Options) error) error {
	documents, err := recipes.Load(path, cmd.InOrStdin())
	if err != nil {
		return err
	}
	epoch, err := sourceDateEpoch()
	if err != nil {
		return err
	}
	screen, err := display.New(o.progress, cmd.ErrOrStderr())
	if err != nil {
		return err
	}
	defer screen.Close()
	ctx := progress.WithSink(cmd.Context(), screen.Sink())
	store, err := cache.Open("")
	if err != nil {
		return err
	}
	engine, err := openEngine(ctx, documents, nil)
	if err != nil {
		return err
	}
	if engine != nil {
		defer engine.Close()
	}
	for _, document := range documents {
		if err := do(ctx, document, nodeimage.Options{Cache: store, Epoch: epoch, InsecureRegistries: o.insecureRegistries, Engine: engine}); err != nil {
			return err
		}
	}
	return nil
}

func printYAML(w io.Writer, v any) error {
	text, err := yaml.Marshal(v)
	if err != nil {
		return fmt.Errorf("printing: %w", err)
	}
	_, err = fmt.Fprintf(w, "---\n%s", text)
	return err
}
