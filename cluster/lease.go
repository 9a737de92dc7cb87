package cluster

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"

	"github.com/nodeimg/nodeimg/internal/dockerengine"
	"github.com/nodeimg/nodeimg/internal/progress"
	"github.com/nodeimg/nodeimg/recipes"
)

// leasePath lies in the node's memory: it goes with the processes that could hold it.
const leasePath = "/run/nodeimg/lease"

// leaseHeld is how flock ends that has waited in vain; it is EX_TEMPFAIL of sysexits.h.
const leaseHeld = 75

// lease waits, for as long as the node may take, until nobody else changes the cluster of which n is the control plane, whoever and
// wherever that is. The caller must call release, and look at the cluster only then. A nodeimg that dies lets go: the Engine ends the
// standard input of a command whose client is gone. The error is a *recipes.InputError when somebody else is at it for too long.
func (n *member) lease(ctx context.Context, cluster string) (release func(), err error) {
	step := progress.Start(ctx, "[%s] nobody else changes it", cluster)
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
		_, err := n.engine.Exec(own, n.id, stdin, begun,
			"flock", "--wait", strconv.Itoa(int(n.wait.Seconds())+1), "--conflict-exit-code", strconv.Itoa(leaseHeld), leasePath, "sh", "-c", "echo held; cat >/dev/null")
		ended <- err
	}()
	select {
	case <-held:
		_ = step.Done(nil)
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
	if exit := new(dockerengine.ExitError); errors.As(err, &exit) && exit.Status == leaseHeld {
		err = recipes.InputErrorf("another nodeimg changes the cluster %s; try again when it has ended", cluster)
	}
	return nil, fmt.Errorf("waiting until nobody else changes %s: %w", cluster, step.Done(err))
}
