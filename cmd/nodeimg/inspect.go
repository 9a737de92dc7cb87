package main

import (
	"github.com/spf13/cobra"

	"github.com/nodeimg/nodeimg/nodeimage/inspect"
)

func newInspectCommand() *cobra.Command {
	var options inspect.Options
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "inspect REFERENCE|FOLDER|ARCHIVE|docker:NAME",
		Short: "Show what a node image is and holds",
		Long: "Show what a node image is and holds: Kubernetes, distribution, container runtime, preloaded images, layers. The image is read\n" +
			"where it lies, in a registry, an OCI layout folder, an OCI archive, a docker-archive or, as docker:NAME, the local Docker Engine.\n" +
			"Of an image in a registry only manifest and config are read.",
		Example: "  nodeimg inspect out/k8s-node\n  nodeimg inspect registry.example.com/k8s-node:v1.34.10 --json\n  nodeimg inspect docker:k8s-node:v1.34.10",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			img, closer, err := inspect.Open(cmd.Context(), args[0], options)
			if err != nil {
				return err
			}
			defer closer.Close()
			report, err := inspect.Image(img, args[0])
			if err != nil {
				return err
			}
			if asJSON {
				return report.WriteJSON(cmd.OutOrStdout())
			}
			return report.WriteText(cmd.OutOrStdout())
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON instead of tables")
	cmd.Flags().StringVar(&options.Platform, "platform", "", "which image of several to show, as os/arch (default: linux on this processor)")
	cmd.Flags().StringArrayVar(&options.InsecureRegistries, "insecure-registry", nil, "host[:port] of a registry to speak plain http to (repeatable; loopback always may)")
	return cmd
}
