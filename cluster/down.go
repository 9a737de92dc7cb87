package cluster

import (
	"context"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/nodeimg/nodeimg/internal/dockerengine"
	"github.com/nodeimg/nodeimg/internal/progress"
)

// removeLimit is how long removing a cluster may take that could not be made.
const removeLimit = 2 * time.Minute

// Down removes the cluster with everything that belongs to it, also one that is half-made. The error is a *recipes.InputError when there
// is none of the name.
func Down(ctx context.Context, engine *dockerengine.Engine, name string) error {
	if _, err := get(ctx, engine, name); err != nil {
		return err
	}
	step := progress.Start(ctx, "[down] %s", name)
	return step.Done(remove(ctx, engine, name))
}

// remove removes whatever has the cluster's label: the mark that it is complete first, then what the marks stand for.
func remove(ctx context.Context, engine *dockerengine.Engine, name string) error {
	volumes, err := engine.Volumes(ctx, LabelCluster, name)
	if err != nil {
		return err
	}
	for _, v := range volumes {
		if err := engine.RemoveVolume(ctx, v.ID); err != nil {
			return err
		}
	}
	containers, err := engine.Containers(ctx, LabelCluster, name)
	if err != nil {
		return err
	}
	var group errgroup.Group
	for _, c := range containers {
		group.Go(func() error { return engine.RemoveContainer(ctx, c.ID) })
	}
	if err := group.Wait(); err != nil {
		return err
	}
	networks, err := engine.Networks(ctx, LabelCluster, name)
	if err != nil {
		return err
	}
	for _, n := range networks {
		if err := engine.RemoveNetwork(ctx, n.ID); err != nil {
			return err
		}
	}
	return nil
}
