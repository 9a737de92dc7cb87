package main

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/nodeimg/nodeimg/recipes"
)

// The exit statuses of nodeimg.
const (
	exitSuccess = 0
	// exitFailure means that the world failed: a registry, a build, a disk.
	exitFailure = 1
	// exitInput means that the input has to be changed: a recipe, a flag, an argument.
	exitInput = 2
)

// newRootCommand assembles the commands. Each has its own file with one constructor.
func newRootCommand() *cobra.Command {
	root := &cobra.Command{
		Use:   "nodeimg",
		Short: "Build Kubernetes node images from recipes",
		Long: "nodeimg turns a recipe into a Kubernetes node image: the distribution, a container runtime, kubeadm and kubelet,\n" +
			"and inside it the images of the control plane, the pod network and your applications.",
		SilenceUsage:  true,
		SilenceErrors: true,
		// Without this cobra itself refuses unknown commands, in words of its own.
		Args: cobra.ArbitraryArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return cmd.Help()
			}
			return unknownCommand(cmd, args[0])
		},
	}
	root.AddCommand(
		newBuildCommand(),
		newDownCommand(),
		newDockerfileCommand(),
		newDoctorCommand(),
		newInitCommand(),
		newInspectCommand(),
		newKubeconfigCommand(),
		newListCommand(),
		newLoadCommand(),
		newLockCommand(),
		newLogsCommand(),
		newNodesCommand(),
		newPreloadCommand(),
		newResizeCommand(),
		newSchemaCommand(),
		newStartCommand(),
		newStopCommand(),
		newUpCommand(),
		newValidateCommand(),
		newVersionCommand(),
	)
	return root
}

// run executes the command line and returns the exit status.
func run(ctx context.Context, args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	root := newRootCommand()
	root.SetArgs(args)
	root.SetIn(interruptible(ctx, stdin))
	root.SetOut(stdout)
	root.SetErr(stderr)
	started := false
	markStart(root, &started)

	command, err := root.ExecuteContextC(ctx)
	if err == nil {
		return exitSuccess
	}
	var input *recipes.InputError
	switch {
	case errors.As(err, &input):
		printError(stderr, err)
		return exitInput
	case !started:
		// Whatever cobra refuses before a command begins is about how it was called.
		printError(stderr, err)
		fmt.Fprintf(stderr, "Run '%s --help' for usage.\n", command.CommandPath())
		return exitInput
	case ctx.Err() != nil && errors.Is(err, context.Canceled):
		fmt.Fprintln(stderr, "Error: interrupted")
		return exitFailure
	default:
		printError(stderr, err)
		return exitFailure
	}
}

// markStart sets started as soon as any command's own code runs.
func markStart(command *cobra.Command, started *bool) {
	if runE := command.RunE; runE != nil {
		command.RunE = func(cmd *cobra.Command, args []string) error {
			*started = true
			return runE(cmd, args)
		}
	}
	for _, child := range command.Commands() {
		markStart(child, started)
	}
}

// printError prints an error, or every problem of bad input, one per line.
func printError(w io.Writer, err error) {
	var input *recipes.InputError
	if errors.As(err, &input) && err == error(input) {
		for _, p := range input.Problems {
			fmt.Fprintf(w, "Error: %s\n", p)
		}
		return
	}
	fmt.Fprintf(w, "Error: %v\n", err)
}

// unknownCommand is bad input; near misses are suggested.
func unknownCommand(root *cobra.Command, name string) error {
	suggestion := ""
	root.SuggestionsMinimumDistance = 2
	if names := root.SuggestionsFor(name); len(names) > 0 {
		suggestion = fmt.Sprintf("; did you mean %s?", names[0])
	}
	return recipes.InputErrorf("unknown command %q%s (run '%s --help' for the list)", name, suggestion, root.CommandPath())
}
