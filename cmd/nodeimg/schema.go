package main

import (
	"github.com/spf13/cobra"

	"github.com/nodeimg/nodeimg/recipes"
)

func newSchemaCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "schema",
		Short:   "Print the JSON Schema of recipes, for editors",
		Example: "  nodeimg schema > schema.json",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			_, err := cmd.OutOrStdout().Write(recipes.Schema())
			return err
		},
	}
}
