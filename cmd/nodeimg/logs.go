package main

import (
	"context"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"

	"github.com/nodeimg/nodeimg/builder/publish"
	"github.com/nodeimg/nodeimg/cluster"
	"github.com/nodeimg/nodeimg/internal/dockerengine"
	"github.com/nodeimg/nodeimg/recipes"
)

func newLogsCommand() *cobra.Command {
	var name, mode string
	cmd := &cobra.Command{
		Use:   "logs DIR",
		Short: "Export what a bug report needs about a cluster",
		Long: "Export what a bug report needs about a cluster, half-made ones too, into the new folder DIR: the nodes' consoles, journals, containers\n" +
			"and their logs, static pods and kubeadm configuration, the cluster's nodes, pods and events, and the Docker Engine's version and\n" +
			"view of the nodes. What cannot be had is a file NAME.failed.txt that says why.\n\n" +
			"Keys, tokens, kubeconfigs and the values of environment variables are left out. Logs of containers are as their programs wrote them:\n" +
			"look through them before you show them to others.",
		Example: "  nodeimg logs report\n  nodeimg logs --name two report",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return runLogs(cmd.Context(), name, args[0], mode, cmd.OutOrStdout(), cmd.ErrOrStderr())
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&name, "name", defaultCluster, "the cluster's name")
	flags.StringVar(&mode, "progress", "auto", "how to show progress: auto, tty, plain, rawjson or quiet")
	return cmd
}

func runLogs(ctx context.Context, name, dir, mode string, stdout, stderr io.Writer) error {
	if err := cluster.CheckName(name); err != nil {
		return err
	}
	// An OCI layout, which publish.Folder would replace, is nothing that logs replace.
	if entries, err := os.ReadDir(dir); err == nil && len(entries) > 0 {
		return recipes.InputErrorf("%s is there already and not empty; name a new folder", dir)
	}
	err := withEngine(ctx, mode, stderr, func(ctx context.Context, engine *dockerengine.Engine) error {
		return publish.Folder(ctx, dir, func(staging string) error { return cluster.Logs(ctx, engine, name, staging) })
	})
	if err != nil {
		return err
	}
	_, err = fmt.Fprintln(stdout, dir)
	return err
}
