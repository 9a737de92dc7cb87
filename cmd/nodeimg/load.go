package main

import (
	"context"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/nodeimg/nodeimg/cluster"
	"github.com/nodeimg/nodeimg/internal/cache"
	"github.com/nodeimg/nodeimg/internal/dockerengine"
	"github.com/nodeimg/nodeimg/nodeimage"
	"github.com/nodeimg/nodeimg/preload"
	"github.com/nodeimg/nodeimg/recipes"
)

type loadOptions struct {
	name               string
	progress           string
	insecureRegistries []string
}

func newLoadCommand() *cobra.Command {
	var options loadOptions
	cmd := &cobra.Command{
		Use:   "load SOURCE...",
		Short: "Load images into every node of a running cluster",
		Long: "Load images into every node of a running cluster, all nodes at once. SOURCE is archive:FILE, docker:NAME for an image of the local\n" +
			"Docker Engine, layout:FOLDER, or else a reference in a registry. A node gets only the layers that it lacks. Pods can use the\n" +
			"images by tag or digest when the command ends, without pulling; the kubelet may collect them when its disk is full.\n" +
			"Nodes with CRI-O get the layers unpacked, and keep the images until another one gets their name.\n\n" +
			"Standard output gets the images' references with their digests, standard error what each node was sent.",
		Example: "  nodeimg load docker:app:dev\n  nodeimg load --name two archive:app.tar registry.example/tool:1.0",
		Args:    cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return runLoad(cmd.Context(), args, options, cmd.OutOrStdout(), cmd.ErrOrStderr())
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&options.name, "name", defaultCluster, "the cluster's name")
	flags.StringArrayVar(&options.insecureRegistries, "insecure-registry", nil, "host[:port] of a registry to speak plain http to (repeatable; loopback always may)")
	flags.StringVar(&options.progress, "progress", "auto", "how to show progress: auto, tty, plain, rawjson or quiet")
	return cmd
}

func runLoad(ctx context.Context, sources []string, o loadOptions, stdout, stderr io.Writer) error {
	if err := cluster.CheckName(o.name); err != nil {
		return err
	}
	load := cluster.LoadOptions{Name: o.name}
	for _, text := range sources {
		source, err := nodeimage.ParseSource(text)
		if err != nil {
			return err
		}
		load.Images = append(load.Images, source)
	}
	var images []recipes.LockedImage
	var nodes []cluster.Loaded
	err := withEngine(ctx, o.progress, stderr, func(ctx context.Context, engine *dockerengine.Engine) error {
		store, err := cache.Open("")
		if err != nil {
			return err
		}
		load.Engine = engine
		load.Sources = &preload.Sources{Cache: store, InsecureRegistries: o.insecureRegistries, Engine: engine}
		images, nodes, err = cluster.Load(ctx, load)
		return err
	})
	for _, n := range nodes {
		fmt.Fprintf(stderr, "%s: sent %d bytes, %d bytes were there\n", n.Node, n.Sent, n.Present)
	}
	if err != nil {
		return err
	}
	for _, image := range images {
		fmt.Fprintf(stdout, "%s@%s\n", image.Reference, image.Digest)
	}
	return nil
}
