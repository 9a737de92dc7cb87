package main

import (
	"context"
	"io"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/nodeimg/nodeimg/builder/display"
	"github.com/nodeimg/nodeimg/cluster"
	"github.com/nodeimg/nodeimg/internal/dockerengine"
	"github.com/nodeimg/nodeimg/internal/progress"
)

func newStopCommand() *cobra.Command {
	var name, mode string
	cmd := &cobra.Command{
		Use:   "stop [--name NAME]",
		Short: "Stop the nodes of a cluster",
		Long: "Stop all containers of a cluster. They keep what they have, and do not start again with the Docker Engine; nodeimg start starts\n" +
			"them.",
		Example: "  nodeimg stop\n  nodeimg start",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return runPower(cmd.Context(), name, mode, cmd.ErrOrStderr(), func(ctx context.Context, engine *dockerengine.Engine) error {
				return cluster.Stop(ctx, engine, name)
			})
		},
	}
	registerPower(cmd.Flags(), &name, &mode)
	return cmd
}

// registerPower binds the flags that stop and start share.
func registerPower(flags *pflag.FlagSet, name, mode *string) {
	flags.StringVar(name, "name", defaultCluster, "the cluster's name")
	flags.StringVar(mode, "progress", "auto", "how to show progress: auto, tty, plain, rawjson or quiet")
}

// runPower changes a cluster and shows how that proceeds.
func runPower(ctx context.Context, name, mode string, stderr io.Writer, change func(context.Context, *dockerengine.Engine) error) error {
	screen, err := display.New(mode, stderr)
	if err != nil {
		return err
	}
	defer screen.Close()
	return changeCluster(progress.WithSink(ctx, screen.Sink()), name, change)
}
