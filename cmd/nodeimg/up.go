package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/nodeimg/nodeimg/builder/display"
	"github.com/nodeimg/nodeimg/builder/publish"
	"github.com/nodeimg/nodeimg/cluster"
	"github.com/nodeimg/nodeimg/cluster/config"
	"github.com/nodeimg/nodeimg/internal/dockerengine"
	"github.com/nodeimg/nodeimg/internal/progress"
	"github.com/nodeimg/nodeimg/nodeimage/inspect"
	"github.com/nodeimg/nodeimg/recipes"
)

// defaultCluster is the name of a cluster that nobody has named.
const defaultCluster = "nodeimg"

type upOptions struct {
	cluster cluster.Options
	apiPort uint16
	// controlPlanes and workers are how many there are.
	controlPlanes, workers int
	kubeconfig             string
	progress               string
	timings                bool
}

func newUpCommand() *cobra.Command {
	var options upOptions
	cmd := &cobra.Command{
		Use:   "up IMAGE",
		Short: "Make a Kubernetes cluster of a node image",
		Long: "Make a Kubernetes cluster whose nodes are containers of a node image. IMAGE is an image of the local Docker Engine, a folder with\n" +
			"an OCI layout, or an archive; the last two are loaded into the Engine first. Nothing is downloaded: the nodes need no network.\n\n" +
			"Nodes run without privileges where the Engine has sysbox-runc. Without it --privileged has to be given, and gives them every\n" +
			"privilege on this host. The command ends when all nodes and the pods of kube-system are Ready, and has then added the context\n" +
			"nodeimg-NAME to your kubeconfig. When it fails or is interrupted, it removes what it has made.",
		Example: "  nodeimg up k8s-node:v1.34.10\n  nodeimg up out/k8s-node --workers 2 --privileged\n  nodeimg down",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return runUp(cmd.Context(), args[0], options, cmd.OutOrStdout(), cmd.ErrOrStderr())
		},
	}
	flags := cmd.Flags()
	described := &options.cluster.Config
	flags.StringVar(&described.Metadata.Name, "name", defaultCluster, "the cluster's name")
	flags.IntVar(&options.workers, "workers", 0, "nodes beside the control plane; without any, it takes all pods")
	flags.StringVar(&described.Spec.Runtime, "runtime", "", "the Engine's OCI runtime for nodes; sysbox-runc unless given")
	flags.BoolVar(&described.Spec.Privileged, "privileged", false, "give the nodes every privilege on this host")
	flags.Uint16Var(&options.apiPort, "api-port", 0, "port of the API server on this host's loopback address; a free one unless given")
	flags.DurationVar(&options.cluster.Wait, "wait", 5*time.Minute, "how long a node, and then all of them, may take to be Ready")
	flags.BoolVar(&options.cluster.Retain, "retain", false, "keep what was made when it fails, to look into it")
	registerKubeconfig(flags, &options.kubeconfig)
	flags.StringVar(&options.progress, "progress", "auto", "how to show progress: auto, tty, plain, rawjson or quiet")
	flags.BoolVar(&options.timings, "timings", false, "print how long each step took")
	return cmd
}

func registerKubeconfig(flags *pflag.FlagSet, path *string) {
	flags.StringVar(path, "kubeconfig", "", "kubeconfig to change; $KUBECONFIG or ~/.kube/config unless given")
}

// kubeconfigPath is the file that kubectl would change.
func kubeconfigPath(flag string) string {
	if flag != "" {
		return flag
	}
	return clientcmd.NewDefaultPathOptions().GetDefaultFilename()
}

func runUp(ctx context.Context, image string, o upOptions, stdout, stderr io.Writer) error {
	screen, err := display.New(o.progress, stderr)
	if err != nil {
		return err
	}
	defer screen.Close()
	o.cluster.API = netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), o.apiPort)
	path := kubeconfigPath(o.kubeconfig)
	name := o.cluster.Config.Metadata.Name
	if o.workers < 0 {
		return recipes.InputErrorf("found %d workers, expected 0 or more", o.workers)
	}
	o.controlPlanes = 1
	described := &o.cluster.Config.Spec
	described.ControlPlanes, described.Workers = config.Groups{{Count: o.controlPlanes}}, config.Groups{{Count: o.workers}}
	var result *cluster.Result
	err = changeCluster(progress.WithSink(ctx, screen.Sink()), name, func(ctx context.Context, engine *dockerengine.Engine) (err error) {
		o.cluster.Engine = engine
		if o.cluster.Owner, err = lockOwner(ctx); err != nil {
			return err
		}
		if o.cluster.Config.Spec.Image, err = loadNodeImage(ctx, engine, image); err != nil {
			return err
		}
		if result, err = cluster.Up(ctx, o.cluster); err != nil {
			return err
		}
		return cluster.MergeKubeconfig(ctx, path, result.Kubeconfig)
	})
	if err != nil {
		return err
	}
	screen.Close()
	if o.timings {
		if err := display.PrintTimings(stderr, screen.Timings()); err != nil {
			return err
		}
	}
	isolation := "isolated: root in the nodes is another user than root on this host"
	if !result.Isolated {
		isolation = "not isolated: root in the nodes is root on this host"
	}
	fmt.Fprintf(stderr, "The nodes are %s.\nkubectl --kubeconfig %s --context %s get nodes\n", isolation, path, cluster.ContextName(name))
	_, err = fmt.Fprintln(stdout, cluster.ContextName(name))
	return err
}

// loadNodeImage returns the name of the image in the Engine; a layout or an archive is loaded, unless the Engine has the same image.
func loadNodeImage(ctx context.Context, engine *dockerengine.Engine, target string) (string, error) {
	if _, err := os.Stat(target); err != nil {
		found, err := engine.Inspect(ctx, target)
		if missing := new(dockerengine.NotFoundError); errors.As(err, &missing) {
			return "", recipes.InputErrorf("%v, and there is no such file or folder", missing)
		}
		if err != nil {
			return "", err
		}
		if found.Labels[recipes.LabelKubernetes] == "" {
			return "", recipes.InputErrorf("%s is not a node image that nodeimg built: it lacks the label %s", target, recipes.LabelKubernetes)
		}
		return target, nil
	}
	img, closer, err := inspect.Open(ctx, target, inspect.Options{})
	if err != nil {
		return "", err
	}
	defer closer.Close()
	report, err := inspect.Image(img, target)
	if err != nil {
		return "", err
	}
	id, err := img.ConfigName()
	if err != nil {
		return "", fmt.Errorf("reading %s: %w", target, err)
	}
	name := "nodeimg-up/" + report.Name + ":" + id.Hex[:12]
	if _, err := engine.Inspect(ctx, name); err == nil {
		return name, nil
	}
	_, err = publish.Load(ctx, engine, img, []string{name})
	return name, err
}
