package main

import (
	"context"
	"io"

	"github.com/spf13/cobra"

	"github.com/nodeimg/nodeimg/cluster"
	"github.com/nodeimg/nodeimg/internal/dockerengine"
)

func newKubeconfigCommand() *cobra.Command {
	var name string
	cmd := &cobra.Command{
		Use:   "kubeconfig [--name NAME]",
		Short: "Print a cluster's kubeconfig",
		Long: "Print the administrator's kubeconfig of a cluster, with the one context nodeimg-NAME, for use on this host. nodeimg up has added it\n" +
			"to your own kubeconfig already.",
		Example: "  nodeimg kubeconfig --name dev > dev.conf",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return runKubeconfig(cmd.Context(), name, cmd.OutOrStdout())
		},
	}
	cmd.Flags().StringVar(&name, "name", defaultCluster, "the cluster's name")
	return cmd
}

func runKubeconfig(ctx context.Context, name string, stdout io.Writer) error {
	if err := cluster.CheckName(name); err != nil {
		return err
	}
	engine, err := dockerengine.Open(ctx)
	if err != nil {
		return err
	}
	defer engine.Close()
	config, err := cluster.Kubeconfig(ctx, engine, name)
	if err != nil {
		return err
	}
	_, err = stdout.Write(config)
	return err
}
