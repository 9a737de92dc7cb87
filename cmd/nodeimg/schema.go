package main

import (
	"github.com/spf13/cobra"

	"github.com/nodeimg/nodeimg/cluster/config"
	"github.com/nodeimg/nodeimg/recipes"
)

func newSchemaCommand() *cobra.Command {
	kinds := []string{"recipe", "cluster"}
	return &cobra.Command{
		Use:       "schema [recipe|cluster]",
		Short:     "Print the JSON Schema of recipes, or of descriptions of clusters, for editors",
		Example:   "  nodeimg schema > schema.json\n  nodeimg schema cluster > cluster-schema.json",
		Args:      cobra.MaximumNArgs(1),
		ValidArgs: kinds,
		RunE: func(cmd *cobra.Command, args []string) error {
			schema := recipes.Schema()
			switch {
			case len(args) == 0 || args[0] == "recipe":
			case args[0] == "cluster":
				schema = config.Schema()
			default:
				return recipes.InputErrorf("found the kind of file %q, expected recipe or cluster%s", args[0], recipes.DidYouMean(args[0], kinds))
			}
			_, err := cmd.OutOrStdout().Write(schema)
			return err
		},
	}
}
