package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/nodeimg/nodeimg/cluster/doctor"
	"github.com/nodeimg/nodeimg/recipes"
)

func newDoctorCommand() *cobra.Command {
	var format string
	cmd := &cobra.Command{
		Use:   "doctor [-o json]",
		Short: "Say what this host lacks for building and for clusters",
		Long: "Look at what building node images and making clusters needs of this host and its Docker Engine, and say what works, what does\n" +
			"not, and what helps. Nothing on the host is changed. As root it also tries mounts, in namespaces that end with the attempt.\n\n" +
			"The exit status is 0 when no check failed, else 1. Warnings do not count.",
		Example: "  nodeimg doctor\n  nodeimg doctor -o json",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return runDoctor(cmd.Context(), format, cmd.OutOrStdout())
		},
	}
	cmd.Flags().StringVarP(&format, "output", "o", "", "json for programs")
	return cmd
}

func runDoctor(ctx context.Context, format string, stdout io.Writer) error {
	if format != "" && format != "json" {
		return recipes.InputErrorf("-o %q: expected json", format)
	}
	checks, err := doctor.Run(ctx, doctor.DefaultLimit)
	if err != nil {
		return err
	}
	if err := writeChecks(stdout, checks, format); err != nil {
		return err
	}
	var failed []string
	for _, c := range checks {
		if c.State == doctor.Failed {
			failed = append(failed, c.Name)
		}
	}
	if len(failed) > 0 {
		return fmt.Errorf("%d of %d checks failed: %s", len(failed), len(checks), strings.Join(failed, ", "))
	}
	return nil
}

// writeChecks writes the checks as JSON, or as a table with the remedies below it.
func writeChecks(w io.Writer, checks []doctor.Check, format string) error {
	if format == "json" {
		encoder := json.NewEncoder(w)
		encoder.SetEscapeHTML(false)
		encoder.SetIndent("", "  ")
		return encoder.Encode(checks)
	}
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "STATE\tCHECK\tFOUND")
	for _, c := range checks {
		fmt.Fprintf(table, "%s\t%s\t%s\n", c.State, c.Name, c.Found)
	}
	headed := false
	for _, c := range checks {
		if c.Remedy == "" {
			continue
		}
		if !headed {
			fmt.Fprintln(table, "\nSTATE\tCHECK\tREMEDY")
			headed = true
		}
		fmt.Fprintf(table, "%s\t%s\t%s\n", c.State, c.Name, c.Remedy)
	}
	return table.Flush()
}
