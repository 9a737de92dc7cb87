package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
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
	outputs            []string
	tags               []string
	push               bool
	builder            string
	workerRuntime      string
	progress           string
	noCache            bool
	timings            bool
	metadataFile       string
	insecureRegistries []string
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
	flags.StringArrayVarP(&options.outputs, "output", "o", nil, "where to write: type=oci,dest=DIR | type=oci-archive,dest=FILE | type=docker[,dest=FILE] (repeatable)")
	flags.StringArrayVarP(&options.tags, "tag", "t", nil, "name of the image (repeatable)")
	flags.BoolVar(&options.push, "push", false, "push to every --tag, with the credentials of docker or podman")
	flags.StringVar(&options.builder, "builder", "", "address of a running buildkitd, for instance unix:///run/buildkit/buildkitd.sock (default $BUILDKIT_HOST)")
	flags.StringVar(&options.workerRuntime, "worker-runtime", "auto", "OCI runtime of nodeimg's own buildkitd: auto, runc, sysbox-runc or a path")
	flags.StringVar(&options.progress, "progress", "auto", "how to show progress: auto, tty, plain, rawjson or quiet")
	flags.BoolVar(&options.noCache, "no-cache", false, "run every build step again")
	flags.BoolVar(&options.timings, "timings", false, "print where the time went")
	flags.StringVar(&options.metadataFile, "metadata-file", "", "write digest, names and lock of the image to this file as JSON")
	flags.StringArrayVar(&options.insecureRegistries, "insecure-registry", nil, "host[:port] of a registry to speak plain http to (repeatable; loopback always may)")
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
			Cache: store, Builder: b, Epoch: epoch, NoCache: o.noCache, InsecureRegistries: o.insecureRegistries,
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

// parseOutputs checks everything about outputs that can be wrong before the build starts.
func (o buildOptions) parseOutputs(documents []*recipes.Document) ([]publish.Output, error) {
	var outputs []publish.Output
	for _, text := range o.outputs {
		output, err := publish.ParseOutput(text)
		if err != nil {
			return nil, err
		}
		if output.Type == publish.OutputDocker && output.Dest == "" && len(o.tags) == 0 {
			return nil, recipes.InputErrorf("output %q: an image in the Docker Engine needs a name; give one with -t", text)
		}
		outputs = append(outputs, output)
	}
	if err := publish.CheckNames(o.tags); err != nil {
		return nil, err
	}
	if o.push && len(o.tags) == 0 {
		return nil, recipes.InputErrorf("--push: give the name to push to with -t")
	}
	if len(outputs) == 0 && !o.push {
		outputs = []publish.Output{{Type: publish.OutputOCI}}
	}
	if len(documents) > 1 && (len(o.tags) > 0 || len(o.outputs) > 0 || o.metadataFile != "") {
		return nil, recipes.InputErrorf("%s holds %d recipes, and -t, -o and --metadata-file can name only one image; put the recipes into files of their own", documents[0].File, len(documents))
	}
	return outputs, nil
}

// sourceDateEpoch reads $SOURCE_DATE_EPOCH (reproducible-builds.org/specs/source-date-epoch); zero when it is not set.
func sourceDateEpoch() (time.Time, error) {
	text, ok := os.LookupEnv("SOURCE_DATE_EPOCH")
	if !ok || text == "" {
		return time.Time{}, nil
	}
	seconds, err := strconv.ParseInt(text, 10, 64)
	if err != nil || seconds < 0 {
		return time.Time{}, recipes.InputErrorf("SOURCE_DATE_EPOCH=%q: expected seconds since 1970", text)
	}
	return time.Unix(seconds, 0).UTC(), nil
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
	return child.New(child.Options{Cache: store, Runtime: o.workerRuntime})
}

// openEngine reaches the Docker Engine when a recipe or an output needs it; otherwise it returns nil.
func openEngine(ctx context.Context, documents []*recipes.Document, outputs []publish.Output) (*dockerengine.Engine, error) {
	needed := slices.ContainsFunc(outputs, func(o publish.Output) bool { return o.Type == publish.OutputDocker && o.Dest == "" })
	for _, document := range documents {
		needed = needed || slices.ContainsFunc(document.Recipe.Spec.Preload.Images, func(i recipes.ImageSource) bool { return i.Docker != "" })
	}
	if !needed {
		return nil, nil
	}
	return dockerengine.Open(ctx)
}
