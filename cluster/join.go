package cluster

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/nodeimg/nodeimg/internal/dockerengine"
	"github.com/nodeimg/nodeimg/internal/progress"
)

// member is a node whose container runs, and that is to become a node of its cluster, or is one.
type member struct {
	engine   *dockerengine.Engine
	id, name string
	// wait is how long anything may take that is waited for.
	wait time.Duration
	// described is what the node shall be; it matters while it is made.
	described description
	// started is when the container was started, when the API server may believe in an earlier time.
	started time.Time
}

// startAll makes and starts containers at once, with the mark of the run, and returns them in their order. The caller removes what there is
// of them when it fails.
func startAll(ctx context.Context, engine *dockerengine.Engine, run string, wait time.Duration, specs ...dockerengine.ContainerSpec) ([]*member, error) {
	members := make([]*member, len(specs))
	group, groupCtx := errgroup.WithContext(ctx)
	for i, spec := range specs {
		n := &member{engine: engine, name: spec.Name, wait: wait}
		members[i] = n
		spec.Labels[labelRun] = run
		group.Go(func() (err error) {
			// The Engine goes on with what nobody waits for any more, and makes a container after all others were removed.
			n.id, err = engine.CreateContainer(context.WithoutCancel(groupCtx), spec)
			if late, lateErr := removeLate(groupCtx, engine, run, spec, err); lateErr != nil {
				return lateErr
			} else if late {
				n.id, err = engine.CreateContainer(context.WithoutCancel(groupCtx), spec)
			}
			if err != nil {
				return because(err, "it is not this cluster's; remove it, or name the cluster otherwise")
			}
			return because(engine.StartContainer(groupCtx, n.id), "choose another one with --api-port or --publish")
		})
	}
	return members, group.Wait()
}

// lateLimit is how long an Engine may take to show a container whose name is taken.
const lateLimit = 10 * time.Second

// removeLate removes the container that has the name of spec, when that is why spec could not be made and it is one of an earlier run of the
// cluster: the Engine was still at it when that run was killed and the next one looked for what is left. Nobody else makes containers of
// the cluster meanwhile.
func removeLate(ctx context.Context, engine *dockerengine.Engine, run string, spec dockerengine.ContainerSpec, err error) (bool, error) {
	if taken := new(dockerengine.TakenError); !errors.As(err, &taken) {
		return false, nil
	}
	for limit := time.Now().Add(lateLimit); ; {
		// A name is taken before its container can be seen, so a list tells only of those that could be seen before it.
		_, hidden := engine.Details(ctx, spec.Name)
		containers, err := engine.Containers(ctx, LabelCluster, spec.Labels[LabelCluster])
		if err != nil {
			return false, err
		}
		for _, c := range containers {
			if c.Name == spec.Name && c.Labels[labelRun] != run {
				return true, engine.RemoveContainer(ctx, c.ID)
			}
		}
		if hidden == nil || time.Now().After(limit) {
			return false, ctx.Err()
		}
		select {
		case <-ctx.Done():
			return false, context.Cause(ctx)
		case <-time.After(poll):
		}
	}
}

// because adds a remedy to the error when something was taken.
func because(err error, remedy string) error {
	if taken := new(dockerengine.TakenError); errors.As(err, &taken) {
		return fmt.Errorf("%w: %s", err, remedy)
	}
	return err
}

// exec runs a command in the node and returns its standard output.
func (n *member) exec(ctx context.Context, command ...string) (string, error) {
	return n.engine.Exec(ctx, n.id, nil, nil, command...)
}

// kubectl runs a command of kubectl as the administrator, in a control plane.
func (n *member) kubectl(ctx context.Context, step *progress.Step, command ...string) error {
	log := func(line string) { step.Log("%s", line) }
	_, err := n.engine.Exec(ctx, n.id, nil, log, append([]string{"kubectl", "--kubeconfig", adminConfig}, command...)...)
	return err
}

// kubeadm runs a command of kubeadm with a configuration that nobody else can read and that is gone afterwards. It fails early when the
// kubelet does not last.
func (n *member) kubeadm(ctx context.Context, path, config string, step *progress.Step, command ...string) error {
	config, err := patient(config, n.wait)
	if err != nil {
		return err
	}
	if err := n.write(ctx, path, config); err != nil {
		return err
	}
	defer func() {
		clean, cancel := context.WithTimeout(context.WithoutCancel(ctx), removeLimit)
		defer cancel()
		_, _ = n.exec(clean, "rm", "-f", path, discoveryPath)
	}()
	log := func(line string) { step.Log("%s", line) }
	err = n.whileKubeletLasts(ctx, func(ctx context.Context) error {
		_, err := n.engine.Exec(ctx, n.id, nil, log, append(append([]string{"kubeadm"}, command...), "--config", path)...)
		return err
	})
	return n.explained(ctx, err)
}

// write puts a file into the node that only its root can read.
func (n *member) write(ctx context.Context, path, content string) error {
	_, err := n.engine.Exec(ctx, n.id, strings.NewReader(content), nil, "sh", "-c", `umask 077 && cat >"$0"`, path)
	return err
}

// discovery prints what a node needs to know of the API server: its address and its authority.
const discovery = `kubectl --kubeconfig "$0" config view --raw --minify -o 'jsonpath={.clusters[0].cluster.server} {.clusters[0].cluster.certificate-authority-data}'`

// invitation is what a node needs to join a cluster.
type invitation struct {
	// discovery is a kubeconfig without a user.
	discovery, token string
}

// invite makes an invitation of the control plane n to its cluster.
func (n *member) invite(ctx context.Context, token string) (invitation, error) {
	found, err := n.exec(ctx, "sh", "-c", discovery, adminConfig)
	server, authority, _ := strings.Cut(strings.TrimSpace(found), " ")
	return invitation{discovery: discoveryConfig(server, authority), token: token}, err
}

// joining is what a node joins as.
type joining struct {
	role Role
	// alone says that no other nodes take ordinary pods, so that a control plane has to.
	alone bool
}

// join makes the node, which has booted, a node of a cluster. A control plane has the cluster's authorities already.
func (n *member) join(ctx context.Context, to invitation, as joining) error {
	step := progress.Start(ctx, "[%s] kubeadm join", n.name)
	return step.Done(func() error {
		shipped, err := n.exec(ctx, "cat", shippedConfig)
		if err != nil {
			return err
		}
		config, err := joinConfig(shipped, to.token, as)
		if err != nil {
			return err
		}
		if config, err = n.described.configure(config); err != nil {
			return err
		}
		if config, err = n.patchKubelet(ctx, config); err != nil {
			return err
		}
		if err := n.write(ctx, discoveryPath, to.discovery); err != nil {
			return err
		}
		return n.kubeadm(ctx, joinConfigPath, config, step, "join")
	}())
}
