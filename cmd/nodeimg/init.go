package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"

	"github.com/google/renameio/v2"
	"github.com/spf13/cobra"

	"github.com/nodeimg/nodeimg/recipes"
)

type initOptions struct {
	force bool
	from  string
}

func newInitCommand() *cobra.Command {
	var opts initOptions
	cmd := &cobra.Command{
		Use:   "init [FILE]",
		Short: "Write a commented recipe to start from",
		Long: "Write a commented recipe to start from to FILE (recipe.yaml when left out, standard output when -).\n" +
			"An existing file is kept unless --force is given.",
		Example: "  nodeimg init\n  nodeimg init --from k8s-node-ubuntu ubuntu.yaml",
		Args:    cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			text, err := initialRecipe(opts.from)
			if err != nil {
				return err
			}
			file := "recipe.yaml"
			if len(args) > 0 {
				file = args[0]
			}
			if file == "-" {
				_, err := cmd.OutOrStdout().Write(text)
				return err
			}
			if err := writeRecipe(file, text, opts.force); err != nil {
				return err
			}
			_, err = fmt.Fprintln(cmd.OutOrStdout(), file)
			return err
		},
	}
	cmd.Flags().BoolVar(&opts.force, "force", false, "overwrite FILE if it exists")
	cmd.Flags().StringVar(&opts.from, "from", "", "start from the shipped recipe `NAME`: "+strings.Join(shippedNames(), ", "))
	return cmd
}

// initialRecipe returns the template, or the shipped recipe that is named.
func initialRecipe(from string) ([]byte, error) {
	if from == "" {
		return recipes.Template(), nil
	}
	text, err := fs.ReadFile(recipes.Shipped(), from+".yaml")
	if err != nil {
		return nil, recipes.InputErrorf("--from: found %q, expected one of %s", from, strings.Join(shippedNames(), ", "))
	}
	return text, nil
}

func shippedNames() []string {
	// The pattern is well formed, so Glob cannot fail.
	files, _ := fs.Glob(recipes.Shipped(), "*.yaml")
	for i := range files {
		files[i] = strings.TrimSuffix(files[i], ".yaml")
	}
	slices.Sort(files) // k8s-node.yaml comes after k8s-node-source.yaml, k8s-node before k8s-node-source.
	return files
}

func writeRecipe(file string, text []byte, force bool) error {
	if _, err := os.Lstat(file); err == nil && !force {
		return recipes.InputErrorf("writing recipe %s: the file exists; name another one or give --force to overwrite it", file)
	} else if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("writing recipe %s: %w", file, err)
	}
	if err := renameio.WriteFile(file, text, 0o644); err != nil {
		return fmt.Errorf("writing recipe %s: %w", file, err)
	}
	return nil
}
