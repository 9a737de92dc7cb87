package main

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/nodeimg/nodeimg/cluster"
	"github.com/nodeimg/nodeimg/internal/dockerengine"
	"github.com/nodeimg/nodeimg/recipes"
)

func newNodesCommand() *cobra.Command {
	var name, format string
	cmd := &cobra.Command{
		Use:   "nodes [--name NAME] [-o json]",
		Short: "List the nodes of a cluster",
		Long: "List the nodes of a cluster: their role, the state of their container, and what Kubernetes says about them: Ready, NotReady, or\n" +
			"Missing when it does not know the node, and the kubelet's version. Both are unknown when the API server does not answer. The load\n" +
			"balancer of several control planes is listed with them; it is no node.",
		Example: "  nodeimg nodes\n  nodeimg nodes --name dev -o json",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return runNodes(cmd.Context(), name, format, cmd.OutOrStdout())
		},
	}
	cmd.Flags().StringVar(&name, "name", defaultCluster, "the cluster's name")
	cmd.Flags().StringVarP(&format, "output", "o", "", "json for programs")
	return cmd
}

// listedStatus is a node in the output of nodes -o json.
type listedStatus struct {
	Name    string       `json:"name"`
	Role    cluster.Role `json:"role"`
	State   string       `json:"state"`
	Status  string       `json:"status"`
	Version string       `json:"version"`
	Image   string       `json:"image"`
}

func runNodes(ctx context.Context, name, format string, stdout io.Writer) error {
	if format != "" && format != "json" {
		return recipes.InputErrorf("-o %q: expected json", format)
	}
	if err := cluster.CheckName(name); err != nil {
		return err
	}
	engine, err := dockerengine.Open(ctx)
	if err != nil {
		return err
	}
	defer engine.Close()
	found, err := cluster.Nodes(ctx, engine, name)
	if err != nil {
		return err
	}
	if format == "json" {
		nodes := make([]listedStatus, 0, len(found))
		for _, n := range found {
			nodes = append(nodes, listedStatus{Name: n.Name, Role: n.Role(), State: n.State, Status: n.Status, Version: n.Version, Image: n.Image})
		}
		encoder := json.NewEncoder(stdout)
		encoder.SetIndent("", "  ")
		return encoder.Encode(nodes)
	}
	table := tabwriter.NewWriter(stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "NODE\tROLE\tSTATE\tSTATUS\tVERSION")
	for _, n := range found {
		fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%s\n", n.Name, n.Role(), n.State, cmp.Or(n.Status, "-"), cmp.Or(n.Version, "-"))
	}
	return table.Flush()
}
