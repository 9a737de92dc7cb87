package main

import (
	"context"
	"io"

	"github.com/spf13/cobra"

	"github.com/nodeimg/nodeimg/builder/display"
	"github.com/nodeimg/nodeimg/cluster"
	"github.com/nodeimg/nodeimg/internal/dockerengine"
	"github.com/nodeimg/nodeimg/internal/progress"
)

type resizeOptions struct {
	cluster  cluster.ResizeOptions
	image    string
	progress string
	timings  bool
}

func newResizeCommand() *cobra.Command {
	var options resizeOptions
	cmd := &cobra.Command{
		Use:   "resize [--name NAME] --workers N",
		Short: "Change how many workers a cluster has",
		Long: "Make or remove workers of a cluster until it has as many as given. New ones are like the last group of workers that the cluster was\n" +
			"described with, but for ports of this host. --image gives them another image, of the same or an older Kubernetes version; the command ends when they are Ready, and removes them when that fails.\n\n" +
			"The workers with the highest numbers are removed, after their pods have moved elsewhere. Containers that never joined, because an\n" +
			"earlier resize was killed, are removed first; a worker that has joined and is not Ready is waited for.",
		Example: "  nodeimg resize --workers 3\n  nodeimg resize --name dev --workers 2 --image k8s-node:v1.33.6",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return runResize(cmd.Context(), options, cmd.ErrOrStderr())
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&options.cluster.Name, "name", defaultCluster, "the cluster's name")
	flags.IntVar(&options.cluster.Workers, "workers", 0, "nodes beside the control plane; without any, it takes all pods")
	flags.StringVar(&options.image, "image", "", "node image of new workers, as for up, in place of that of the last group of workers")
	registerWait(flags, &options.cluster.Wait, "how long new workers may take to be Ready, and pods to leave those that are removed")
	flags.StringVar(&options.progress, "progress", "auto", "how to show progress: auto, tty, plain, rawjson or quiet")
	flags.BoolVar(&options.timings, "timings", false, "print how long each step took")
	_ = cmd.MarkFlagRequired("workers")
	return cmd
}

func runResize(ctx context.Context, o resizeOptions, stderr io.Writer) error {
	screen, err := display.New(o.progress, stderr)
	if err != nil {
		return err
	}
	defer screen.Close()
	err = changeCluster(progress.WithSink(ctx, screen.Sink()), o.cluster.Name, func(ctx context.Context, engine *dockerengine.Engine) (err error) {
		o.cluster.Engine = engine
		if o.image != "" {
			if o.cluster.Image, err = loadNodeImage(ctx, engine, o.image); err != nil {
				return err
			}
		}
		return cluster.Resize(ctx, o.cluster)
	})
	if err != nil || !o.timings {
		return err
	}
	screen.Close()
	return display.PrintTimings(stderr, screen.Timings())
}
