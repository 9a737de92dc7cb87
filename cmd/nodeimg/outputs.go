package main

import (
	"os"
	"strconv"
	"time"

	"github.com/spf13/pflag"

	"github.com/nodeimg/nodeimg/builder/publish"
	"github.com/nodeimg/nodeimg/recipes"
)

// outputOptions are the flags of every command that makes an image.
type outputOptions struct {
	outputs            []string
	tags               []string
	push               bool
	progress           string
	timings            bool
	metadataFile       string
	insecureRegistries []string
}

func (o *outputOptions) register(flags *pflag.FlagSet) {
	flags.StringArrayVarP(&o.outputs, "output", "o", nil, "where to write: type=oci,dest=DIR | type=oci-archive,dest=FILE | type=docker[,dest=FILE] (repeatable)")
	flags.StringArrayVarP(&o.tags, "tag", "t", nil, "name of the image (repeatable)")
	flags.BoolVar(&o.push, "push", false, "push to every --tag, with the credentials of docker or podman")
	flags.StringVar(&o.progress, "progress", "auto", "how to show progress: auto, tty, plain, rawjson or quiet")
	flags.BoolVar(&o.timings, "timings", false, "print where the time went")
	flags.StringVar(&o.metadataFile, "metadata-file", "", "write digest, names and lock of the image to this file as JSON")
	flags.StringArrayVar(&o.insecureRegistries, "insecure-registry", nil, "host[:port] of a registry to speak plain http to (repeatable; loopback always may)")
}

// parse checks everything about outputs that can be wrong before the work starts.
func (o outputOptions) parse() ([]publish.Output, error) {
	var outputs []publish.Output
	for _, text := range o.outputs {
		output, err := publish.ParseOutput(text)
		if err != nil {
			return nil, err
		}
		if loads(output) && len(o.tags) == 0 {
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
	return outputs, nil
}

// loads says whether the output is the Docker Engine.
func loads(output publish.Output) bool {
	return output.Type == publish.OutputDocker && output.Dest == ""
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
