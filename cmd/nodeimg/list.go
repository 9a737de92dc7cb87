package main

import (
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

func newListCommand() *cobra.Command {
	var format string
	cmd := &cobra.Command{
		Use:     "list [-o wide|json]",
		Short:   "List the clusters and their nodes",
		Long:    "List the clusters that nodeimg up has made in the Docker Engine, half-made ones too.",
		Example: "  nodeimg list\n  nodeimg list -o json",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return runList(cmd.Context(), format, cmd.OutOrStdout())
		},
	}
	cmd.Flags().StringVarP(&format, "output", "o", "", "wide for a line per node, json for programs")
	return cmd
}

// listed is a cluster in the output of list -o json.
type listed struct {
	Name     string       `json:"name"`
	Complete bool         `json:"complete"`
	Nodes    []listedNode `json:"nodes"`
}

type listedNode struct {
	Name  string       `json:"name"`
	Role  cluster.Role `json:"role"`
	State string       `json:"state"`
	Image string       `json:"image"`
}

func runList(ctx context.Context, format string, stdout io.Writer) error {
	if format != "" && format != "wide" && format != "json" {
		return recipes.InputErrorf("-o %q: expected wide or json", format)
	}
	engine, err := dockerengine.Open(ctx)
	if err != nil {
		return err
	}
	defer engine.Close()
	found, err := cluster.List(ctx, engine, "")
	if err != nil {
		return err
	}
	if format == "json" {
		clusters := make([]listed, 0, len(found))
		for _, c := range found {
			entry := listed{Name: c.Name, Complete: c.Complete, Nodes: []listedNode{}}
			for _, n := range c.Containers() {
				entry.Nodes = append(entry.Nodes, listedNode{Name: n.Name, Role: n.Role(), State: n.State, Image: n.Image})
			}
			clusters = append(clusters, entry)
		}
		encoder := json.NewEncoder(stdout)
		encoder.SetIndent("", "  ")
		return encoder.Encode(clusters)
	}
	table := tabwriter.NewWriter(stdout, 0, 0, 2, ' ', 0)
	if format == "wide" {
		fmt.Fprintln(table, "CLUSTER\tNODE\tROLE\tSTATE\tIMAGE")
	} else {
		fmt.Fprintln(table, "CLUSTER\tNODES\tSTATE")
	}
	for _, c := range found {
		if format == "wide" {
			for _, n := range c.Containers() {
				fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%s\n", c.Name, n.Name, n.Role(), n.State, n.Image)
			}
			continue
		}
		state := "complete"
		if !c.Complete {
			state = "half-made"
		}
		fmt.Fprintf(table, "%s\t%d\t%s\n", c.Name, len(c.Nodes), state)
	}
	return table.Flush()
}
