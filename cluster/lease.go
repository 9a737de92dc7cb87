package cluster

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/nodeimg/nodeimg/internal/dockerengine"
	"github.com/nodeimg/nodeimg/internal/progress"
	"github.com/nodeimg/nodeimg/recipes"
)

// leasePath lies in the node's memory: it goes with the processes that could hold it.
const leasePath = "/run/nodeimg/lease"

// leaseHeld is how flock ends that has waited in vain; it is EX_TEMPFAIL of sysexits.h.
const leaseHeld = 75

// lease waits, for as long as a node may take, until nobody else changes the cluster c, whoever and wherever that is. It locks all control
// planes that run, in the order of their names: any two have one in common, also when one of them starts others. The caller must call release,
// and look at the cluster only then. The context that it returns ends, with the reason, when no lock is left: their nodes have ended. A
// nodeimg that dies lets go: the Engine ends the standard input of a command whose client is gone. The error is a *recipes.InputError when
// somebody else is at it for too long.
func lease(ctx context.Context, engine *dockerengine.Engine, c *Cluster, wait time.Duration) (held context.Context, release func(), err error) {
	step := progress.Start(ctx, "[%s] nobody else changes it", c.Name)
	held, end := context.WithCancelCause(ctx)
	var locks atomic.Int32
	var unlocks []func()
	release = func() {
		for _, unlock := range unlocks {
			unlock()
		}
		end(nil)
	}
	for _, node := range c.controlPlanes() {
		if node.State != stateRunning {
			continue
		}
		locks.Add(1)
		n := &member{engine: engine, id: node.ID, name: node.Name, wait: wait}
		unlock, err := n.lock(ctx, func(err error) {
			if locks.Add(-1) == 0 {
				end(fmt.Errorf("the lock of the cluster %s in %s is lost, and somebody else may change it: %w", c.Name, n.name, err))
			}
		})
		if err != nil {
			release()
			if exit := new(dockerengine.ExitError); errors.As(err, &exit) && exit.Status == leaseHeld {
				err = recipes.InputErrorf("another nodeimg changes the cluster %s; try again when it has ended", c.Name)
			}
			return nil, nil, fmt.Errorf("waiting until nobody else changes %s: %w", c.Name, step.Done(err))
		}
		unlocks = append(unlocks, unlock)
	}
	return held, release, step.Done(nil)
}

// lockCommand takes a lock, says that it is held, and holds it until its standard input ends.
func lockCommand(path string, wait time.Duration) []string {
	// A node that has just been started has not made the folder yet.
	return []string{"sh", "-c", `mkdir -p "${0%/*}" && exec flock --wait "$1" --conflict-exit-code "$2" "$0" sh -c 'echo held; cat >/dev/null'`,
		path, strconv.Itoa(int(wait.Seconds()) + 1), strconv.Itoa(leaseHeld)}
}

// lock waits for the lock in the node. It calls lost when the lock is there no longer, whyever.
func (n *member) lock(ctx context.Context, lost func(error)) (unlock func(), err error) {
	stdin, hold := io.Pipe()
	held, ended := make(chan struct{}), make(chan error, 1)
	// What has failed is undone also when ctx has ended.
	own, cancel := context.WithCancel(context.WithoutCancel(ctx))
	go func() {
		// What else is said is a complaint, which is told when the command has ended.
		begun := func(line string) {
			if line == "held" {
				close(held)
			}
		}
		_, err := n.engine.Exec(own, n.id, stdin, begun, lockCommand(leasePath, n.wait)...)
		if exit := new(dockerengine.ExitError); errors.As(err, &exit) {
			exit.Command = []string{"flock", leasePath}
		} else if err == nil {
			err = errors.New("it has been given back")
		}
		lost(err)
		ended <- err
	}()
	select {
	case <-held:
		return func() {
			_ = hold.Close()
			cancel()
			<-ended
		}, nil
	case err = <-ended:
	case <-ctx.Done():
		err = context.Cause(ctx)
	}
	cancel()
	_ = hold.Close()
	return nil, err
}
