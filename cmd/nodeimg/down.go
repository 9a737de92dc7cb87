package main

import (
	"context"
	"errors"
	"io"

	"github.com/spf13/cobra"

	"github.com/nodeimg/nodeimg/cluster"
	"github.com/nodeimg/nodeimg/internal/dockerengine"
)

func newDownCommand() *cobra.Command {
	var all bool
	var name, kubeconfig, mode string
	cmd := &cobra.Command{
		Use:   "down [--name NAME | --all]",
		Short: "Remove a cluster",
		Long: "Remove a cluster that nodeimg up has made, also one that is half-made: its containers, volumes, network, and its context in your\n" +
			"kubeconfig. Names match exactly. The node image stays in the Docker Engine.",
		Example: "  nodeimg down\n  nodeimg down --name dev\n  nodeimg down --all",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if all {
				name = ""
			}
			return runDown(cmd.Context(), name, kubeconfigPath(kubeconfig), mode, cmd.ErrOrStderr())
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&name, "name", defaultCluster, "the cluster's name")
	flags.BoolVar(&all, "all", false, "remove every cluster of nodeimg in the Docker Engine")
	registerKubeconfig(flags, &kubeconfig)
	flags.StringVar(&mode, "progress", "auto", "how to show progress: auto, tty, plain, rawjson or quiet")
	cmd.MarkFlagsMutuallyExclusive("name", "all")
	return cmd
}

// runDown removes the cluster of the name, or all when it is empty.
func runDown(ctx context.Context, name, kubeconfig, mode string, stderr io.Writer) error {
	return withEngine(ctx, mode, stderr, func(ctx context.Context, engine *dockerengine.Engine) error {
		names := []string{name}
		if name == "" {
			names = nil
			found, err := cluster.List(ctx, engine, "")
			if err != nil {
				return err
			}
			for _, c := range found {
				names = append(names, c.Name)
			}
		}
		var errs []error
		for _, name := range names {
			errs = append(errs, downOne(ctx, engine, name, kubeconfig))
		}
		return errors.Join(errs...)
	})
}

func downOne(ctx context.Context, engine *dockerengine.Engine, name, kubeconfig string) error {
	if err := cluster.CheckName(name); err != nil {
		return err
	}
	return withLock(ctx, engine, name, func() error {
		return cluster.Down(ctx, engine, name, kubeconfig)
	})
}
