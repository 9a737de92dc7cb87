package main

import (
	"context"
	"fmt"
	"io"
	"net/netip"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/nodeimg/nodeimg/builder/display"
	"github.com/nodeimg/nodeimg/cluster"
	"github.com/nodeimg/nodeimg/cluster/config"
	"github.com/nodeimg/nodeimg/cluster/doctor"
	"github.com/nodeimg/nodeimg/internal/dockerengine"
	"github.com/nodeimg/nodeimg/internal/progress"
)

// defaultCluster is the name of a cluster that nobody has named.
const defaultCluster = config.DefaultName

type upOptions struct {
	describe describeOptions
	cluster  cluster.Options
	// located says of an error where the description names the image.
	located  func(image string, err error) error
	progress string
	timings  bool
}

func newUpCommand() *cobra.Command {
	var options upOptions
	cmd := &cobra.Command{
		Use:   "up [IMAGE|RECIPE]",
		Short: "Make a Kubernetes cluster of a node image",
		Long: "Make a Kubernetes cluster whose nodes are containers of a node image. IMAGE is an image of the local Docker Engine, a folder with\n" +
			"an OCI layout, or an archive; the last two are loaded into the Engine first. RECIPE is built, unless the Engine has an image of the same\n" +
			"content. Nothing is downloaded for the nodes, which need no network.\n\n" +
			"--config reads a description of the cluster (nodeimg schema cluster), over which IMAGE and flags have their say.\n\n" +
			"Nodes run without privileges where the Engine has sysbox-runc. Without it --privileged has to be given, and gives them every\n" +
			"privilege on this host. The command ends when all nodes and the pods of kube-system are Ready, and has then added the context\n" +
			"nodeimg-NAME to your kubeconfig. When it fails or is interrupted, it removes what it has made.",
		Example: "  nodeimg up k8s-node:v1.34.10\n  nodeimg up out/k8s-node --workers 2 --privileged -p 8080:30080\n" +
			"  nodeimg up recipe.yaml --workers 1 --memory 2g\n  nodeimg up --config cluster.yaml\n  nodeimg down",
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			described, err := options.describe.describe(cmd.Flags(), strings.Join(args, ""), cmd.InOrStdin())
			if err != nil {
				return err
			}
			options.cluster.Config, options.located = described.Cluster, described.imageLocated
			return runUp(cmd.Context(), options, cmd.OutOrStdout(), cmd.ErrOrStderr())
		},
	}
	flags := cmd.Flags()
	options.describe.register(flags)
	registerWait(flags, &options.cluster.Wait, "how long a node, and then all of them, may take to be Ready")
	flags.BoolVar(&options.cluster.Retain, "retain", false, "keep what was made when it fails, to look into it")
	registerKubeconfig(flags, &options.cluster.Kubeconfig)
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

func runUp(ctx context.Context, o upOptions, stdout, stderr io.Writer) error {
	screen, err := display.New(o.progress, stderr)
	if err != nil {
		return err
	}
	defer screen.Close()
	if o.cluster.API, err = netip.ParseAddrPort(apiAddress(o.cluster.Config.Spec.Networking)); err != nil {
		return err
	}
	o.cluster.Kubeconfig = kubeconfigPath(o.cluster.Kubeconfig)
	name := o.cluster.Config.Metadata.Name
	var result *cluster.Result
	err = changeCluster(progress.WithSink(ctx, screen.Sink()), name, func(ctx context.Context, engine *dockerengine.Engine) (err error) {
		o.cluster.Engine = engine
		if err := cluster.CheckKubeconfig(ctx, o.cluster.Kubeconfig); err != nil {
			return err
		}
		if o.cluster.Owner, err = lockOwner(ctx); err != nil {
			return err
		}
		if err := loadNodeImages(ctx, engine, &o.cluster.Config.Spec, o.located); err != nil {
			return err
		}
		if crowded := doctor.Crowded(ctx, engine, o.cluster.Config.Spec.ControlPlanes.Count(), len(o.cluster.Config.Spec.Members())); crowded != "" {
			fmt.Fprintln(stderr, "Warning:", crowded)
		}
		result, err = cluster.Up(ctx, o.cluster)
		return err
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
	fmt.Fprintf(stderr, "The nodes are %s.\nkubectl --kubeconfig %s --context %s get nodes\n", isolation, o.cluster.Kubeconfig, cluster.ContextName(name))
	_, err = fmt.Fprintln(stdout, cluster.ContextName(name))
	return err
}
