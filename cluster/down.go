package cluster

import (
	"context"
	"errors"
	"fmt"
	goruntime "runtime"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/nodeimg/nodeimg/internal/dockerengine"
	"github.com/nodeimg/nodeimg/internal/progress"
	"github.com/nodeimg/nodeimg/recipes"
)

// removeLimit is how long removing a cluster may take.
const removeLimit = 2 * time.Minute

// Down removes the cluster with everything that belongs to it, also one that is half-made, and before that its context in the kubeconfig at
// the path, so that none is left of a Down that is killed. The error is a *recipes.InputError when there is no cluster of the name.
func Down(ctx context.Context, engine *dockerengine.Engine, name, kubeconfig string) error {
	if _, err := get(ctx, engine, name); err != nil {
		return err
	}
	// A kubeconfig that cannot be changed is no reason to keep the cluster.
	err := ForgetKubeconfig(ctx, kubeconfig, name)
	step := progress.Start(ctx, "[down] %s", name)
	left := remove(ctx, engine, name, LabelCluster, name)
	if left != nil && ctx.Err() == nil {
		// A container that the Engine was still making when its nodeimg was killed comes late, and holds a volume or the network.
		left = remove(ctx, engine, name, LabelCluster, name)
	}
	return errors.Join(err, step.Done(left))
}

// undone removes what a run has made that has failed with err, and returns err, with what could not be removed if there is any.
func undone(ctx context.Context, engine *dockerengine.Engine, cluster, run string, err error) error {
	if left := remove(ctx, engine, cluster, labelRun, run); left != nil {
		return besides(err, fmt.Errorf("removing what was made: %w; nodeimg down --name %s removes it later", left, cluster))
	}
	return err
}

// besides adds to err what the user has to know all the same.
func besides(err, more error) error {
	if input := new(recipes.InputError); errors.As(err, &input) {
		return fmt.Errorf("%w\n%w", err, more)
	}
	// err is not wrapped: of an interruption nothing but that would be told.
	return fmt.Errorf("%v\n%w", err, more)
}

// remove removes whatever of the cluster has the label with the value: the mark that it is complete first, the claim last.
func remove(ctx context.Context, engine *dockerengine.Engine, cluster, label, value string) error {
	ctx, cancel := context.WithTimeoutCause(ctx, removeLimit, fmt.Errorf("not within %s", removeLimit))
	defer cancel()
	if err := removeVolumes(ctx, engine, label, value, func(name string) bool { return name == markName(cluster) }); err != nil {
		return err
	}
	containers, err := engine.Containers(ctx, label, value)
	if err != nil {
		return err
	}
	// All at once would end at the same time, and only then would the Engine take them off the network, one after the other and mostly
	// waiting for the kernel. So the first ones leave the network while the next ones end.
	var group errgroup.Group
	group.SetLimit(2 * goruntime.NumCPU())
	for _, c := range containers {
		group.Go(func() error { return engine.RemoveContainer(ctx, c.ID) })
	}
	if err := group.Wait(); err != nil {
		return err
	}
	networks, err := engine.Networks(ctx, label, value)
	if err != nil {
		return err
	}
	for _, n := range networks {
		if err := engine.RemoveNetwork(ctx, n.ID); err != nil {
			return err
		}
	}
	// Those of containers that an Engine which was killed had removed half.
	if err := removeVolumes(ctx, engine, label, value, func(name string) bool { return name != claimName(cluster) }); err != nil {
		return err
	}
	return removeVolumes(ctx, engine, label, value, func(string) bool { return true })
}

// removeVolumes removes the volumes with the label that are chosen by name.
func removeVolumes(ctx context.Context, engine *dockerengine.Engine, label, value string, chosen func(name string) bool) error {
	volumes, err := engine.Volumes(ctx, label, value)
	if err != nil {
		return err
	}
	for _, v := range volumes {
		if !chosen(v.ID) {
			continue
		}
		if err := engine.RemoveVolume(ctx, v.ID); err != nil {
			return err
		}
	}
	return nil
}
