package main

import (
	"context"
	"crypto/rand"
	"io"
	"os"
	"os/user"
	"time"

	"github.com/nodeimg/nodeimg/builder/display"
	"github.com/nodeimg/nodeimg/cluster"
	"github.com/nodeimg/nodeimg/internal/cache"
	"github.com/nodeimg/nodeimg/internal/dockerengine"
	"github.com/nodeimg/nodeimg/internal/progress"
)

// withEngine calls do with the Docker Engine, and shows how that proceeds until it has returned.
func withEngine(ctx context.Context, mode string, stderr io.Writer, do func(context.Context, *dockerengine.Engine) error) error {
	screen, err := display.New(mode, stderr)
	if err != nil {
		return err
	}
	defer screen.Close()
	ctx = progress.WithSink(ctx, screen.Sink())
	engine, err := dockerengine.Open(ctx)
	if err != nil {
		return err
	}
	defer engine.Close()
	return do(ctx, engine)
}

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
	unlock, err := lockShown(ctx, store, "cluster-"+engine.Host()+"-"+name, name)
	if err != nil {
		return err
	}
	defer unlock()
	return change()
}

// lockPatience is how long another nodeimg may have the lock before that is worth a line on the screen.
const lockPatience = 200 * time.Millisecond

// lockShown waits for a lock and says so when somebody else has it.
func lockShown(ctx context.Context, store *cache.Cache, lock, cluster string) (unlock func(), err error) {
	patience, cancel := context.WithTimeout(ctx, lockPatience)
	defer cancel()
	if unlock, err = store.Lock(patience, lock); err == nil || ctx.Err() != nil {
		return unlock, err
	}
	step := progress.Start(ctx, "[%s] waiting until another nodeimg of yours has changed it", cluster)
	unlock, err = store.Lock(ctx, lock)
	return unlock, step.Done(err)
}

// lockOwner names whose locks these are: everybody with this cache. A name that is in it already stays, also when the user or the host is
// called otherwise now.
func lockOwner(ctx context.Context) (string, error) {
	store, err := cache.Open("")
	if err != nil {
		return "", err
	}
	const fact = "cluster-owner"
	unlock, err := store.Lock(ctx, fact)
	if err != nil {
		return "", err
	}
	defer unlock()
	var owner string
	if ok, err := store.Fact(fact, &owner); ok || err != nil {
		return owner, err
	}
	owner = "somebody"
	if u, err := user.Current(); err == nil {
		owner = u.Username
	}
	if host, err := os.Hostname(); err == nil {
		owner += "@" + host
	}
	owner += "/" + rand.Text()
	return owner, store.PutFact(fact, owner)
}
