package cluster

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/nodeimg/nodeimg/cluster/config"
	"github.com/nodeimg/nodeimg/internal/dockerengine"
	"github.com/nodeimg/nodeimg/internal/progress"
)

// apiPort is where the API server listens in a control-plane node.
const apiPort = 6443

// Options describe the cluster to make.
type Options struct {
	Engine *dockerengine.Engine
	// Owner is whoever sees to it that it makes one cluster of a name at a time: a user with a lock. What an owner left half-made, only the
	// same one makes anew.
	Owner string
	// Config describes the cluster. It is defaulted and valid, and its images are names in the Engine.
	Config config.Cluster
	// API is where the API server is published on the host; port 0 is one that is free.
	API netip.AddrPort
	// Wait is how long each node and the pods of the system may take to be Ready.
	Wait time.Duration
	// Kubeconfig is the path of the file that gets the cluster's context; CheckKubeconfig has accepted it.
	Kubeconfig string
	// Retain keeps what a failed Up has made, to look into it; Down removes it.
	Retain bool
}

// Result tells about a cluster that Up has made.
type Result struct {
	// Isolated says, of what the nodes see themselves, that their root is not the host's.
	Isolated bool
}

// maker makes one cluster.
type maker struct {
	Options
	name, runtime string
	// run marks what is made.
	run   string
	token string
	// specs are the containers of the nodes.
	specs []dockerengine.ContainerSpec
	// controlPlanes and workers are the nodes; the first control plane begins the cluster.
	controlPlanes, workers []*member
	// balancer is nil with one control plane.
	balancer *member
}

// Up makes a cluster and returns when its nodes and the pods of kube-system are Ready and the kubeconfig has its context. What it has
// made is removed when it fails, unless Retain says otherwise. What an earlier Up of the same owner has left that was killed is removed first.
// The error is a *recipes.InputError for options that cannot be, for a cluster that is there already, and for one that another owner makes.
func Up(ctx context.Context, o Options) (_ *Result, err error) {
	m := &maker{Options: o, name: o.Config.Metadata.Name, run: newRun(), token: newToken()}
	if err := m.check(ctx); err != nil {
		return nil, err
	}
	claimed, merging := false, false
	defer func() {
		switch {
		case err == nil:
		case claimed && m.Retain:
			err = besides(err, fmt.Errorf("what was made is kept, because of --retain; nodeimg down --name %s removes it", m.name))
		default:
			// Also when ctx has ended: what was made must go.
			undoCtx := context.WithoutCancel(ctx)
			if merging {
				if left := ForgetKubeconfig(undoCtx, m.Kubeconfig, m.name); left != nil {
					err = besides(err, fmt.Errorf("removing what was made: %w", left))
				}
			}
			err = undone(undoCtx, m.Engine, m.name, m.run, err)
		}
	}()
	if err := claim(ctx, m.Engine, m.name, m.Owner, m.run); err != nil {
		return nil, err
	}
	claimed = true
	if err := m.create(ctx); err != nil {
		return nil, err
	}
	if err := m.boot(ctx); err != nil {
		return nil, err
	}
	isolated, err := m.isolated(ctx)
	if err != nil {
		return nil, err
	}
	config, err := m.init(ctx)
	if err != nil {
		return nil, err
	}
	group, groupCtx := errgroup.WithContext(ctx)
	group.Go(func() error { return m.manifests(groupCtx) })
	group.Go(func() error { return m.joinAll(groupCtx, config) })
	if err := group.Wait(); err != nil {
		return nil, err
	}
	if err := m.controlPlanes[0].labelNodes(ctx, m.members()); err != nil {
		return nil, err
	}
	if err := m.ready(ctx); err != nil {
		return nil, err
	}
	admin, err := Kubeconfig(ctx, m.Engine, m.name)
	if err != nil {
		return nil, err
	}
	merging = true
	if err := MergeKubeconfig(ctx, m.Kubeconfig, admin); err != nil {
		return nil, err
	}
	// From here on the cluster counts as made, so what else can fail comes before.
	err = m.Engine.CreateVolume(context.WithoutCancel(ctx), markName(m.name), map[string]string{LabelCluster: m.name, labelRun: m.run})
	return &Result{Isolated: isolated}, because(err, "it is not this cluster's; remove it or choose another --name")
}

// check looks at the options and at what the Engine has, before anything is made.
func (m *maker) check(ctx context.Context) error {
	if err := CheckName(m.name); err != nil {
		return err
	}
	runtimes, err := m.Engine.Runtimes(ctx)
	if err != nil {
		return err
	}
	if m.runtime, err = chooseRuntime(m.Config.Spec, runtimes); err != nil {
		return err
	}
	if err := checkImages(ctx, m.Engine, m.Config.Spec.Members()); err != nil {
		return err
	}
	if err := checkPodNetwork(ctx, m.Engine, m.Config.Spec); err != nil {
		return err
	}
	if m.specs, err = m.containers(ctx); err != nil {
		return err
	}
	found, err := List(ctx, m.Engine, m.name)
	if err != nil || len(found) == 0 {
		return err
	}
	if left := found[0]; left.Complete || left.Owner != m.Owner && left.Owner != "" {
		return left.refused()
	}
	// It may have got as far as that.
	if err := ForgetKubeconfig(ctx, m.Kubeconfig, m.name); err != nil {
		return err
	}
	return remove(ctx, m.Engine, m.name, LabelCluster, m.name)
}

// create makes and starts all containers at once.
func (m *maker) create(ctx context.Context) error {
	step := progress.Start(ctx, "[create] network and %d containers of %s", len(m.Config.Spec.Members()), m.name)
	return step.Done(func() error {
		if err := m.makeNetwork(ctx); err != nil {
			return err
		}
		api := m.API
		if api.Port() == 0 {
			port, err := freePort(ctx, api.Addr())
			if err != nil {
				return err
			}
			api = netip.AddrPortFrom(api.Addr(), port)
		}
		specs := m.specs
		if err := passProxies(ctx, m.Engine, m.Config, specs); err != nil {
			return err
		}
		controlPlanes, nodes := m.Config.Spec.ControlPlanes.Count(), len(specs)
		if controlPlanes == 1 {
			specs[0].Publish = append(specs[0].Publish, dockerengine.PublishedPort{Host: api, Container: apiPort})
		} else {
			specs = append(specs, loadBalancerSpec(m.name, specs[:controlPlanes], api))
		}
		members, err := startAll(ctx, m.Engine, m.run, m.Wait, specs...)
		for i, n := range m.Config.Spec.Members() {
			members[i].described = description{spec: m.Config.Spec, node: n}
		}
		m.controlPlanes, m.workers = members[:controlPlanes], members[controlPlanes:nodes]
		if nodes < len(members) {
			m.balancer = members[nodes]
		}
		return err
	}())
}

// freePort finds a port that nobody listens at. One that the Engine chooses would be another one after each start of the container, and
// no kubeconfig would lead to it.
func freePort(ctx context.Context, address netip.Addr) (uint16, error) {
	listener, err := new(net.ListenConfig).Listen(ctx, "tcp", netip.AddrPortFrom(address, 0).String())
	if err != nil {
		return 0, fmt.Errorf("finding a free port at %s: %w", address, err)
	}
	port := listener.Addr().(*net.TCPAddr).Port
	return uint16(port), listener.Close()
}

func (m *maker) members() []*member { return slices.Concat(m.controlPlanes, m.workers) }

// alone says that the control planes have to take ordinary pods.
func (m *maker) alone() bool { return len(m.workers) == 0 }

// boot waits until everything answers that was started.
func (m *maker) boot(ctx context.Context) error {
	group, groupCtx := errgroup.WithContext(ctx)
	group.Go(func() error { return bootAll(groupCtx, m.members()) })
	if m.balancer != nil {
		group.Go(func() error { return m.balancer.listens(groupCtx) })
	}
	return group.Wait()
}

// isolated says, from inside of the nodes, whether root there is another user than root here.
func (m *maker) isolated(ctx context.Context) (bool, error) {
	for _, n := range m.members() {
		out, err := n.exec(ctx, "cat", "/proc/self/uid_map")
		if err != nil {
			return false, fmt.Errorf("node %s: %w", n.name, err)
		}
		if fields := strings.Fields(out); len(fields) < 3 || fields[1] == "0" {
			return false, nil
		}
	}
	return true, nil
}

// init begins the cluster on the first control plane and returns the configuration for that.
func (m *maker) init(ctx context.Context) (config string, err error) {
	first := m.controlPlanes[0]
	step := progress.Start(ctx, "[%s] kubeadm init", first.name)
	err = step.Done(func() error {
		shipped, err := first.exec(ctx, "cat", shippedConfig)
		if err != nil {
			return err
		}
		if m.balancer != nil {
			if shipped, err = withEndpoint(shipped, m.balancer.name); err != nil {
				return err
			}
		}
		if config, err = initConfig(shipped, m.token, m.alone()); err != nil {
			return err
		}
		if config, err = first.described.configure(config); err != nil {
			return err
		}
		if config, err = first.patchKubelet(ctx, config); err != nil {
			return err
		}
		if err := first.keep(ctx, config); err != nil {
			return err
		}
		return first.kubeadm(ctx, initConfigPath, config, step, "init", "--skip-token-print")
	}())
	return config, err
}

// manifests applies the image's own: the pod network, unless the nodes connect their pods themselves or not at all, and the StorageClass,
// for whose provisioner nothing waits but volumes.
func (m *maker) manifests(ctx context.Context) error {
	first := m.controlPlanes[0]
	step := progress.Start(ctx, "[%s] pod network and storage", first.name)
	return step.Done(func() error {
		network, err := first.exec(ctx, "sh", "-c", `[ ! -e "$0" ] || `+otherNetwork+` || cat "$0"`, podNetworkManifest)
		if err == nil && network != "" {
			network, err = withPodSubnet(network, m.Config.Spec.Networking.PodSubnet)
		}
		if err != nil {
			return err
		}
		storage, err := first.exec(ctx, "sh", "-c", `[ ! -e "$0" ] || cat "$0"`, storageManifest)
		if err != nil || network+storage == "" {
			return err
		}
		_, err = m.Engine.Exec(ctx, first.id, strings.NewReader(network+"\n---\n"+storage), func(line string) { step.Log("%s", line) },
			"kubectl", "--kubeconfig", adminConfig, "create", "-f", "-")
		return err
	}())
}
