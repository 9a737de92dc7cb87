package main

import (
	"context"
	"time"

	"github.com/spf13/cobra"

	"github.com/nodeimg/nodeimg/cluster"
	"github.com/nodeimg/nodeimg/internal/dockerengine"
)

func newStartCommand() *cobra.Command {
	var name, mode string
	var wait time.Duration
	cmd := &cobra.Command{
		Use:     "start [--name NAME]",
		Short:   "Start the nodes of a cluster again",
		Long:    "Start the containers of a cluster that do not run. The command ends when all nodes are Ready again.",
		Example: "  nodeimg start --name dev",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return runPower(cmd.Context(), name, mode, cmd.ErrOrStderr(), func(ctx context.Context, engine *dockerengine.Engine) error {
				return cluster.Start(ctx, engine, name, wait)
			})
		},
	}
	registerPower(cmd.Flags(), &name, &mode)
	registerWait(cmd.Flags(), &wait, "how long the API server, and then all nodes, may take")
	return cmd
}
