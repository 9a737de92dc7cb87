package cluster

import (
	"context"
	"fmt"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/nodeimg/nodeimg/internal/dockerengine"
	"github.com/nodeimg/nodeimg/internal/progress"
)

// Stop stops all containers of a cluster, which keep their volumes. Those that do not run are no error. The error is a
// *recipes.InputError when there is no such cluster.
func Stop(ctx context.Context, engine *dockerengine.Engine, name string) error {
	c, err := get(ctx, engine, name)
	if err != nil {
		return err
	}
	group, groupCtx := errgroup.WithContext(ctx)
	for _, node := range c.Containers() {
		group.Go(func() error {
			step := progress.Start(groupCtx, "[%s] stop", node.Name)
			return step.Done(engine.StopContainer(groupCtx, node.ID))
		})
	}
	return group.Wait()
}

// Start starts the containers of a complete cluster that do not run, and returns when all its nodes are Ready again; each may take as
// long as wait. The error is a *recipes.InputError when there is no such cluster, or only half of it.
func Start(ctx context.Context, engine *dockerengine.Engine, name string, wait time.Duration) error {
	c, err := getComplete(ctx, engine, name)
	if err != nil {
		return err
	}
	// Whoever changes the cluster has locked the control planes that run. In one that is stopped there is nothing to lock, and nobody who
	// changes it.
	_, runs := c.runningControlPlane()
	if runs {
		held, release, err := lease(ctx, engine, c, wait)
		if err != nil {
			return err
		}
		defer release()
		ctx = held
	}
	group, groupCtx := errgroup.WithContext(ctx)
	for _, node := range c.Containers() {
		group.Go(func() error {
			step := progress.Start(groupCtx, "[%s] start", node.Name)
			return step.Done(because(engine.StartContainer(groupCtx, node.ID), "the cluster was published there; end what listens there now"))
		})
	}
	if err := group.Wait(); err != nil {
		return err
	}
	c, controlPlane, err := running(ctx, engine, name, wait)
	if err != nil {
		return err
	}
	if err := bootAll(ctx, []*member{controlPlane}); err != nil {
		return err
	}
	if !runs {
		held, release, err := lease(ctx, engine, c, wait)
		if err != nil {
			return err
		}
		defer release()
		ctx = held
	}
	if c, controlPlane, err = running(ctx, engine, name, wait); err != nil {
		return err
	}
	known, err := controlPlane.awaitNodes(ctx)
	if err != nil {
		return fmt.Errorf("waiting for the API server of %s: %w", name, controlPlane.explained(ctx, err))
	}
	if err := controlPlane.uncordon(ctx, known); err != nil {
		return err
	}
	if network, err := controlPlane.hasPodNetwork(ctx); err != nil || !network {
		return err
	}
	// The API server calls a node Ready for a while after it has gone. A container that never became a node is nothing to wait for.
	var nodes []*member
	for _, node := range c.Nodes {
		if _, ok := known[node.Name]; !ok {
			continue
		}
		details, err := engine.Details(ctx, node.ID)
		if err != nil {
			return err
		}
		nodes = append(nodes, &member{engine: engine, id: node.ID, name: node.Name, wait: wait, started: details.Started})
	}
	return controlPlane.awaitReady(ctx, name, nodes)
}
