package cluster

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/nodeimg/nodeimg/internal/dockerengine"
	"github.com/nodeimg/nodeimg/internal/progress"
	"github.com/nodeimg/nodeimg/recipes"
)

// sysbox is the OCI runtime that runs nodes without privileges.
const sysbox = "sysbox-runc"

// apiPort is where the API server listens in a control-plane node.
const apiPort = 6443

// Options describe the cluster to make.
type Options struct {
	Engine *dockerengine.Engine
	// Name is the cluster's.
	Name string
	// Image is the node image's name in the Engine.
	Image string
	// Workers are nodes beside the control plane. Without any, the control plane takes ordinary pods too.
	Workers int
	// Runtime is the Engine's OCI runtime for the nodes; empty means sysbox-runc, or the Engine's default with Privileged.
	Runtime string
	// Privileged gives the nodes every privilege on the host.
	Privileged bool
	// API is where the API server is published on the host; port 0 lets the Engine choose.
	API netip.AddrPort
	// Wait is how long each node and the pods of the system may take to be Ready.
	Wait time.Duration
	// Retain keeps what a failed Up has made, to look into it; Down removes it.
	Retain bool
}

// Result tells about a cluster that Up has made.
type Result struct {
	// API is the API server's address on the host.
	API netip.AddrPort
	// Kubeconfig is the administrator's, for that address.
	Kubeconfig []byte
	// Isolated says, of what the nodes see themselves, that their root is not the host's.
	Isolated bool
}

// maker makes one cluster.
type maker struct {
	Options
	token        string
	controlPlane *member
	workers      []*member
}

// member is a node that is being made.
type member struct {
	id, name string
}

// Up makes a cluster and returns when its nodes and the pods of kube-system are Ready. What it has made is removed when it fails, unless
// Retain says otherwise. What an earlier Up has left that was killed is removed first; the caller must see to it that no other Up of the
// name runs. The error is a *recipes.InputError for options that cannot be, and for a cluster that is there already.
func Up(ctx context.Context, o Options) (_ *Result, err error) {
	m := &maker{Options: o, token: newToken()}
	if err := m.check(ctx); err != nil {
		return nil, err
	}
	defer func() {
		if err == nil {
			return
		}
		if m.Retain {
			err = fmt.Errorf("%w\nwhat was made is kept, because of --retain; nodeimg down --name %s removes it", err, m.Name)
			return
		}
		// Also when ctx has ended: what was made must go.
		clean, cancel := context.WithTimeout(context.WithoutCancel(ctx), removeLimit)
		defer cancel()
		err = errors.Join(err, remove(clean, m.Engine, m.Name))
	}()
	if err := m.create(ctx); err != nil {
		return nil, err
	}
	isolated, err := m.isolated(ctx)
	if err != nil {
		return nil, err
	}
	if err := m.bootAll(ctx); err != nil {
		return nil, err
	}
	if err := m.init(ctx); err != nil {
		return nil, err
	}
	group, groupCtx := errgroup.WithContext(ctx)
	group.Go(func() error { return m.podNetwork(groupCtx) })
	for _, w := range m.workers {
		group.Go(func() error { return m.join(groupCtx, w) })
	}
	if err := group.Wait(); err != nil {
		return nil, err
	}
	if err := m.ready(ctx); err != nil {
		return nil, err
	}
	result := &Result{Isolated: isolated}
	if result.API, result.Kubeconfig, err = kubeconfig(ctx, m.Engine, m.Name); err != nil {
		return nil, err
	}
	// From here on the cluster counts as made.
	return result, m.Engine.CreateVolume(ctx, networkName(m.Name)+"-complete", map[string]string{LabelCluster: m.Name})
}

// check looks at the options and at what the Engine has, before anything is made.
func (m *maker) check(ctx context.Context) error {
	if err := CheckName(m.Name); err != nil {
		return err
	}
	if m.Workers < 0 {
		return recipes.InputErrorf("found %d workers, expected 0 or more", m.Workers)
	}
	runtimes, err := m.Engine.Runtimes(ctx)
	if err != nil {
		return err
	}
	switch {
	case m.Runtime != "" && !slices.Contains(runtimes, m.Runtime):
		return recipes.InputErrorf("the Docker Engine has no runtime %s; it has %s", m.Runtime, strings.Join(runtimes, ", "))
	case m.Runtime == "" && !m.Privileged && !slices.Contains(runtimes, sysbox):
		return recipes.InputErrorf("the Docker Engine has no runtime %s, which nodes need to run without privileges; install Sysbox "+
			"(https://github.com/nestybox/sysbox), or choose nodes with every privilege on this host by --privileged", sysbox)
	case m.Runtime == "" && !m.Privileged:
		m.Runtime = sysbox
	}
	found, err := List(ctx, m.Engine, m.Name)
	if err != nil || len(found) == 0 {
		return err
	}
	if found[0].Complete {
		return recipes.InputErrorf("the cluster %s is there already; nodeimg down --name %[1]s removes it", m.Name)
	}
	return remove(ctx, m.Engine, m.Name)
}

// create makes and starts all containers at once.
func (m *maker) create(ctx context.Context) error {
	step := progress.Start(ctx, "[create] network and %d containers of %s", 1+m.Workers, m.Name)
	return step.Done(func() error {
		network := networkName(m.Name)
		if _, err := m.Engine.CreateNetwork(ctx, network, map[string]string{LabelCluster: m.Name}, networkOptions()); err != nil {
			return because(err, "it is not this cluster's; remove it or choose another --name")
		}
		m.controlPlane = &member{name: nodeName(m.Name, RoleControlPlane, 1)}
		group, groupCtx := errgroup.WithContext(ctx)
		start := func(n *member, role Role) {
			group.Go(func() (err error) {
				spec := m.spec(n.name, role)
				if n.id, err = m.Engine.CreateContainer(groupCtx, spec); err != nil {
					return because(err, "it is not this cluster's; remove it or choose another --name")
				}
				if err := m.Engine.StartContainer(groupCtx, n.id); err != nil {
					return because(err, "choose another one with --api-port")
				}
				return nil
			})
		}
		start(m.controlPlane, RoleControlPlane)
		for i := range m.Workers {
			w := &member{name: nodeName(m.Name, RoleWorker, i+1)}
			m.workers = append(m.workers, w)
			start(w, RoleWorker)
		}
		return group.Wait()
	}())
}

// because adds a remedy to the error when something was taken.
func because(err error, remedy string) error {
	if taken := new(dockerengine.TakenError); errors.As(err, &taken) {
		return fmt.Errorf("%w: %s", err, remedy)
	}
	return err
}

func (m *maker) spec(name string, role Role) dockerengine.ContainerSpec {
	spec := dockerengine.ContainerSpec{
		Name: name, Hostname: name, Image: m.Image, Runtime: m.Runtime, Privileged: m.Privileged, Network: networkName(m.Name),
		Labels: map[string]string{LabelCluster: m.Name, LabelRole: string(role)},
		Tmpfs:  []string{"/run", "/tmp"},
		// Overlays of the node cannot lie on Docker's own.
		Volumes: []string{"/var"},
	}
	if role == RoleControlPlane {
		spec.Publish = []dockerengine.PublishedPort{{Host: m.API, Container: apiPort}}
	}
	return spec
}

func (m *maker) members() []*member { return append([]*member{m.controlPlane}, m.workers...) }

// isolated says, from inside of the nodes, whether root there is another user than root here.
func (m *maker) isolated(ctx context.Context) (bool, error) {
	for _, n := range m.members() {
		out, err := m.Engine.Exec(ctx, n.id, nil, nil, "cat", "/proc/self/uid_map")
		if err != nil {
			return false, fmt.Errorf("node %s: %w", n.name, err)
		}
		if fields := strings.Fields(out); len(fields) < 3 || fields[1] == "0" {
			return false, nil
		}
	}
	return true, nil
}

// init begins the cluster on the control plane.
func (m *maker) init(ctx context.Context) error {
	step := progress.Start(ctx, "[%s] kubeadm init", m.controlPlane.name)
	return step.Done(func() error {
		shipped, err := m.Engine.Exec(ctx, m.controlPlane.id, nil, nil, "cat", shippedConfig)
		if err != nil {
			return err
		}
		config, err := initConfig(shipped, m.token, m.Workers == 0)
		if err != nil {
			return err
		}
		return m.kubeadm(ctx, m.controlPlane, initConfigPath, config, step, "init", "--skip-token-print")
	}())
}

// kubeadm runs a command of kubeadm with a configuration that nobody else can read and that is gone afterwards.
func (m *maker) kubeadm(ctx context.Context, n *member, path, config string, step *progress.Step, command ...string) error {
	if err := m.write(ctx, n, path, config); err != nil {
		return err
	}
	defer func() {
		_, _ = m.Engine.Exec(context.WithoutCancel(ctx), n.id, nil, nil, "rm", "-f", path, discoveryPath)
	}()
	log := func(line string) { step.Log("%s", line) }
	_, err := m.Engine.Exec(ctx, n.id, nil, log, append(append([]string{"kubeadm"}, command...), "--config", path)...)
	return m.explained(ctx, n, err)
}

// write puts a file into a node that only its root can read.
func (m *maker) write(ctx context.Context, n *member, path, content string) error {
	_, err := m.Engine.Exec(ctx, n.id, strings.NewReader(content), nil, "sh", "-c", `umask 077 && cat >"$0"`, path)
	return err
}

// podNetwork applies the image's own manifest.
func (m *maker) podNetwork(ctx context.Context) error {
	step := progress.Start(ctx, "[%s] pod network", m.controlPlane.name)
	_, err := m.Engine.Exec(ctx, m.controlPlane.id, nil, func(line string) { step.Log("%s", line) },
		"sh", "-c", `[ ! -e "$1" ] || kubectl --kubeconfig "$0" create -f "$1"`, adminConfig, podNetworkManifest)
	return step.Done(err)
}

// discovery is what a worker needs to know of the control plane: its address by name, and its authority.
const discovery = `kubectl --kubeconfig "$0" config view --raw --minify -o 'jsonpath={.clusters[0].cluster.certificate-authority-data}'`

// join makes a worker a node of the cluster.
func (m *maker) join(ctx context.Context, w *member) error {
	step := progress.Start(ctx, "[%s] kubeadm join", w.name)
	return step.Done(func() error {
		authority, err := m.Engine.Exec(ctx, m.controlPlane.id, nil, nil, "sh", "-c", discovery, adminConfig)
		if err != nil {
			return err
		}
		shipped, err := m.Engine.Exec(ctx, w.id, nil, nil, "cat", shippedConfig)
		if err != nil {
			return err
		}
		config, err := joinConfig(shipped, m.token)
		if err != nil {
			return err
		}
		if err := m.write(ctx, w, discoveryPath, discoveryConfig(m.controlPlane.name, strings.TrimSpace(authority))); err != nil {
			return err
		}
		return m.kubeadm(ctx, w, joinConfigPath, config, step, "join")
	}())
}
