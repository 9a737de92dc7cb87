package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"github.com/nodeimg/nodeimg/builder"
	"github.com/nodeimg/nodeimg/builder/child"
	"github.com/nodeimg/nodeimg/builder/display"
	"github.com/nodeimg/nodeimg/builder/publish"
	"github.com/nodeimg/nodeimg/builder/remote"
	"github.com/nodeimg/nodeimg/internal/cache"
	"github.com/nodeimg/nodeimg/internal/dockerengine"
	"github.com/nodeimg/nodeimg/internal/progress"
	"github.com/nodeimg/nodeimg/nodeimage"
	"github.com/nodeimg/nodeimg/recipes"
)

type buildOptions struct {
	outputOptions
	builder       string
	workerRuntime string
	allow         allowed
	noCache       bool
}

func newBuildCommand() *cobra.Command {
	var options buildOptions
	cmd := &cobra.Command{
		Use:   "build RECIPE",
		Short: "Build a node image from a recipe",
		Long: "Build a node image from a recipe, - being standard input. Without -o and --push the image is written to ./out/NAME as an OCI\n" +
			"image layout. Standard output gets the image's reference with its digest and nothing else.\n\n" +
			"BuildKit is reached at --builder or $BUILDKIT_HOST; without either, nodeimg starts a buildkitd of its own and stops it again,\n" +
			"which needs root and runc.\n\n" +
			"$SOURCE_DATE_EPOCH, in seconds, is the time that everything in the image carries.",
		Example: "  nodeimg build recipe.yaml\n" +
			"  nodeimg build recipe.yaml --push -t registry.example/k8s-node:v1.34.10\n" +
			"  nodeimg build recipe.yaml -o type=docker -t k8s-node:v1.34.10\n" +
			"  nodeimg build recipe.yaml -o type=oci-archive,dest=node.tar",
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return runBuild(cmd.Context(), args[0], options, cmd.InOrStdin(), cmd.OutOrStdout(), cmd.ErrOrStderr())
		},
	}
	flags := cmd.Flags()
	options.register(flags)
	flags.StringVar(&options.builder, "builder", "", "address of a running buildkitd, for instance unix:///run/buildkit/buildkitd.sock (default $BUILDKIT_HOST)")
	flags.StringVar(&options.workerRuntime, "worker-runtime", "auto", "OCI runtime of nodeimg's own buildkitd: auto, runc, sysbox-runc or a path")
	flags.Var(&options.allow, "allow", "grant what build steps ask for: security.insecure, every privilege")
	flags.BoolVar(&options.noCache, "no-cache", false, "run every build step again")
	return cmd
}

func runBuild(ctx context.Context, path string, o buildOptions, stdin io.Reader, stdout, stderr io.Writer) (err error) {
	documents, err := recipes.Load(path, stdin)
	if err != nil {
		return err
	}
	outputs, err := o.parseOutputs(documents)
	if err != nil {
		return err
	}
	epoch, err := sourceDateEpoch()
	if err != nil {
		return err
	}
	screen, err := display.New(o.progress, stderr)
	if err != nil {
		return err
	}
	defer screen.Close()
	ctx = progress.WithSink(ctx, screen.Sink())
	store, err := cache.Open("")
	if err != nil {
		return err
	}
	b, err := openBuilder(o, store)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, b.Close()) }()
	engine, err := openEngine(ctx, documents, outputs)
	if err != nil {
		return err
	}
	if engine != nil {
		defer engine.Close()
	}
	start := time.Now()
	for _, document := range documents {
		result, err := nodeimage.Build(ctx, document, nodeimage.Options{
			Cache: store, Builder: b, Epoch: epoch, NoCache: o.noCache, Entitlements: o.allow, InsecureRegistries: o.insecureRegistries,
			Engine: engine, Outputs: outputs, Tags: o.tags, Push: o.push,
		})
		if err != nil {
			return err
		}
		if o.metadataFile != "" {
			result.Metadata.Timings = map[string]float64{"total": time.Since(start).Seconds()}
			if err := publish.WriteMetadata(o.metadataFile, result.Metadata); err != nil {
				return err
			}
		}
		screen.Close()
		for _, reference := range result.References {
			fmt.Fprintln(stdout, reference)
		}
	}
	if o.timings {
		return display.PrintTimings(stderr, screen.Timings())
	}
	return nil
}

// parseOutputs adds the default output, and checks what recipes and outputs have to do with each other.
func (o buildOptions) parseOutputs(documents []*recipes.Document) ([]publish.Output, error) {
	outputs, err := o.parse()
	if err != nil {
		return nil, err
	}
	if len(outputs) == 0 && !o.push {
		outputs = []publish.Output{{Type: publish.OutputOCI}}
	}
	if len(documents) > 1 && (len(o.tags) > 0 || len(o.outputs) > 0 || o.metadataFile != "") {
		return nil, recipes.InputErrorf("%s holds %d recipes, and -t, -o and --metadata-file can name only one image; put the recipes into files of their own", documents[0].File, len(documents))
	}
	return outputs, nil
}

// openBuilder takes the first of --builder, $BUILDKIT_HOST, a child.
func openBuilder(o buildOptions, store *cache.Cache) (builder.Builder, error) {
	address := o.builder
	if address == "" {
		address = os.Getenv("BUILDKIT_HOST")
	}
	if address != "" {
		return remote.New(address)
	}
	return child.New(child.Options{Cache: store, Runtime: o.workerRuntime, Entitlements: o.allow})
}

// openEngine reaches the Docker Engine when a recipe or an output needs it; otherwise it returns nil.
func openEngine(ctx context.Context, documents []*recipes.Document, outputs []publish.Output) (*dockerengine.Engine, error) {
	needed := slices.ContainsFunc(outputs, loads)
	for _, document := range documents {
		needed = needed || slices.ContainsFunc(document.Recipe.Spec.Preload.Images, func(i recipes.ImageSource) bool { return i.Docker != "" })
	}
	if !needed {
		return nil, nil
	}
	return dockerengine.Open(ctx)
}
