package main

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/nodeimg/nodeimg/dockerfiles"
	"github.com/nodeimg/nodeimg/nodeimage"
	"github.com/nodeimg/nodeimg/recipes"
	"github.com/nodeimg/nodeimg/sources"
)

func newDockerfileCommand() *cobra.Command {
	var options resolveOptions
	var output string
	cmd := &cobra.Command{
		Use:   "dockerfile RECIPE",
		Short: "Print the Dockerfile that a recipe compiles to, or write its build context",
		Long: "Print the Dockerfile that a recipe compiles to. With engine direct it leaves the preloaded images out, because nodeimg appends\n" +
			"their layers itself. With -o the Dockerfile, everything it needs and a bake file are written to a folder; \"docker buildx bake\" in\n" +
			"that folder then builds the image without nodeimg and without network.\n\n" +
			"Such an image holds the same images, packed, but is not checked against the lock afterwards, and its layers and digest differ from\n" +
			"those of \"nodeimg build\": the preloaded images are copied into one layer.",
		Example: "  nodeimg dockerfile recipe.yaml\n  nodeimg dockerfile recipe.yaml -o context && cd context && docker buildx bake --load",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return options.each(cmd, args[0], func(ctx context.Context, document *recipes.Document, build nodeimage.Options) error {
				if output != "" {
					return nodeimage.WriteBuildContext(ctx, document, build, output)
				}
				lock, err := sources.Resolve(ctx, document, nodeimage.SourceOptions(build))
				if err != nil {
					return err
				}
				compiled, err := dockerfiles.Compile(document.Recipe, *lock, dockerfiles.PreloadFor(document.Recipe))
				if err != nil {
					return err
				}
				_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s", compiled.Dockerfile)
				return err
			})
		},
	}
	options.bind(cmd)
	cmd.Flags().StringVarP(&output, "output", "o", "", "write the build context to this folder instead")
	return cmd
}
