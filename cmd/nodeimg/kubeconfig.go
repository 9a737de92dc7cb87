package main

import (
	"context"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/nodeimg/nodeimg/cluster"
	"github.com/nodeimg/nodeimg/internal/dockerengine"
	"github.com/nodeimg/nodeimg/recipes"
)

type kubeconfigOptions struct {
	name, kubeconfig string
	merge, remove    bool
}

func newKubeconfigCommand() *cobra.Command {
	var options kubeconfigOptions
	cmd := &cobra.Command{
		Use:   "kubeconfig [--name NAME] [--merge | --remove]",
		Short: "Print a cluster's kubeconfig, or change your own",
		Long: "Print the administrator's kubeconfig of a cluster, with the one context nodeimg-NAME, for use on this host. --merge adds the context\n" +
			"to your own kubeconfig instead and makes it the current one, as nodeimg up has done already. --remove takes it out of there, also when\n" +
			"the cluster is gone.",
		Example: "  nodeimg kubeconfig --name dev > dev.conf\n  nodeimg kubeconfig --name dev --merge --kubeconfig dev.conf\n" +
			"  nodeimg kubeconfig --name dev --remove",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return runKubeconfig(cmd.Context(), options, cmd.OutOrStdout())
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&options.name, "name", defaultCluster, "the cluster's name")
	flags.BoolVar(&options.merge, "merge", false, "add the context to your kubeconfig and make it the current one")
	flags.BoolVar(&options.remove, "remove", false, "take the context out of your kubeconfig")
	registerKubeconfig(flags, &options.kubeconfig)
	cmd.MarkFlagsMutuallyExclusive("merge", "remove")
	return cmd
}

func runKubeconfig(ctx context.Context, o kubeconfigOptions, stdout io.Writer) error {
	if err := cluster.CheckName(o.name); err != nil {
		return err
	}
	path := kubeconfigPath(o.kubeconfig)
	switch {
	case o.remove:
		return cluster.ForgetKubeconfig(ctx, path, o.name)
	case o.merge:
		// Under the cluster's lock, so that no down in between leaves the context behind.
		return changeCluster(ctx, o.name, func(ctx context.Context, engine *dockerengine.Engine) error {
			config, err := cluster.Kubeconfig(ctx, engine, o.name)
			if err != nil {
				return err
			}
			if err := cluster.MergeKubeconfig(ctx, path, config); err != nil {
				return err
			}
			_, err = fmt.Fprintln(stdout, cluster.ContextName(o.name))
			return err
		})
	case o.kubeconfig != "":
		return recipes.InputErrorf("--kubeconfig names the file that --merge or --remove changes; give one of them, or redirect what is printed")
	}
	engine, err := dockerengine.Open(ctx)
	if err != nil {
		return err
	}
	defer engine.Close()
	config, err := cluster.Kubeconfig(ctx, engine, o.name)
	if err != nil {
		return err
	}
	_, err = stdout.Write(config)
	return err
}
