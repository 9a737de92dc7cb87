package main

import (
	"context"

	"github.com/nodeimg/nodeimg/cluster"
	"github.com/nodeimg/nodeimg/internal/cache"
	"github.com/nodeimg/nodeimg/internal/dockerengine"
)

// changeCluster connects to the Engine and calls change while no other nodeimg of this user changes the cluster of the name.
func changeCluster(ctx context.Context, name string, change func(context.Context, *dockerengine.Engine) error) error {
	if err := cluster.CheckName(name); err != nil {
		return err
	}
	engine, err := dockerengine.Open(ctx)
	if err != nil {
		return err
	}
	defer engine.Close()
	return withLock(ctx, engine, name, func() error { return change(ctx, engine) })
}

// withLock waits until no other nodeimg of this user changes the Engine's cluster of the name, and calls change.
func withLock(ctx context.Context, engine *dockerengine.Engine, name string, change func() error) error {
	store, err := cache.Open("")
	if err != nil {
		return err
	}
	unlock, err := store.Lock(ctx, "cluster-"+engine.Host()+"-"+name)
	if err != nil {
		return err
	}
	defer unlock()
	return change()
}
