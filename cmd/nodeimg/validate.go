package main

import (
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/nodeimg/nodeimg/recipes"
)

func newValidateCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "validate RECIPE...",
		Short: "Check recipes without building anything",
		Long: "Check recipes without building anything. All mistakes of all recipes are reported at once, with file, line and column.\n" +
			"A RECIPE of - is read from standard input.",
		Example: "  nodeimg validate recipe.yaml\n  nodeimg init - | nodeimg validate -",
		Args:    cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			var problems []recipes.Problem
			for _, path := range args {
				documents, err := recipes.Load(path, cmd.InOrStdin())
				var input *recipes.InputError
				switch {
				case errors.As(err, &input):
					problems = append(problems, input.Problems...)
				case err != nil:
					return err
				default:
					fmt.Fprintf(cmd.OutOrStdout(), "%s: ok\n", documents[0].File)
				}
			}
			if len(problems) > 0 {
				return recipes.NewInputError(problems...)
			}
			return nil
		},
	}
}
