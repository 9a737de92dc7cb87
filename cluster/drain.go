package cluster

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/nodeimg/nodeimg/internal/dockerengine"
	"github.com/nodeimg/nodeimg/internal/progress"
)

// annotationDraining is on nodes that nodeimg has cordoned, before it does so: a nodeimg that is killed leaves them, the next one can tell
// them from those that somebody else has cordoned.
const annotationDraining = "nodeimg.dev/draining"

// overdue is for how many seconds a pod may be there longer than it was given to end: then its kubelet does not answer, and nothing that
// is waited for can come.
const overdue = "20"

// drain moves the pods of nodes elsewhere, within the time of the control plane n. When they do not move, the nodes take pods as before.
func (n *member) drain(ctx context.Context, nodes []string) error {
	step := progress.Start(ctx, "[drain] %s", strings.Join(nodes, ", "))
	return step.Done(func() error {
		known, err := n.nodes(ctx)
		if err != nil {
			return err
		}
		// What somebody else has cordoned stays so.
		maps.DeleteFunc(known, func(name string, k kubeNode) bool { return k.cordoned || !slices.Contains(nodes, name) })
		if len(known) > 0 {
			marked := append([]string{"annotate", "--overwrite", "node"}, slices.Sorted(maps.Keys(known))...)
			err = n.leashedKubectl(ctx, step, append(marked, annotationDraining+"=")...)
		}
		if err == nil {
			err = n.leashedKubectl(ctx, step, append([]string{"drain", "--ignore-daemonsets", "--delete-emptydir-data", "--force",
				"--skip-wait-for-delete-timeout", overdue, "--timeout", n.wait.String()}, nodes...)...)
		}
		if err == nil {
			return nil
		}
		return tidied(ctx, err, "letting the nodes take pods again", func(ctx context.Context) error {
			known, err := n.nodes(ctx)
			if err != nil {
				return err
			}
			return n.uncordon(ctx, known)
		})
	}())
}

// leash runs a command that ends with its standard input: an Engine lets one go on whose client is gone, but ends its input.
const leash = `exec 3<&0
"$@" </dev/null 3<&- & command=$!
{ read -r _ <&3; kill "$command"; } >/dev/null 2>&1 & watch=$!
wait "$command"
status=$?
{ kill "$watch"; wait "$watch"; } 2>/dev/null
exit "$status"`

// endLimit is how long a command may take to end that nobody needs any more.
const endLimit = 10 * time.Second

// leashedKubectl is kubectl for what must not go on without nodeimg: when ctx ends or nodeimg is killed, it ends too. It has ended when this
// returns, unless the Engine does not answer.
func (n *member) leashedKubectl(ctx context.Context, step *progress.Step, command ...string) error {
	stdin, hold := io.Pipe()
	defer hold.Close()
	own, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	stop := context.AfterFunc(ctx, func() {
		_ = hold.Close()
		time.AfterFunc(endLimit, cancel)
	})
	defer stop()
	log := func(line string) { step.Log("%s", line) }
	_, err := n.engine.Exec(own, n.id, stdin, log, append([]string{"sh", "-c", leash, "sh", "kubectl", "--kubeconfig", adminConfig}, command...)...)
	if err != nil && ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if exit := new(dockerengine.ExitError); errors.As(err, &exit) {
		exit.Command = append([]string{"kubectl"}, command...)
	}
	return err
}

// tidied undoes what was done before err, also when ctx has ended, and returns err, with why that could not be undone if it could not.
func tidied(ctx context.Context, err error, what string, undo func(context.Context) error) error {
	clean, cancel := context.WithTimeoutCause(context.WithoutCancel(ctx), removeLimit, fmt.Errorf("not within %s", removeLimit))
	defer cancel()
	if left := undo(clean); left != nil {
		return besides(err, fmt.Errorf("%s: %w", what, left))
	}
	return err
}

// uncordon lets nodes take pods again that nodeimg has cordoned. The caller has the lease.
func (n *member) uncordon(ctx context.Context, known map[string]kubeNode) error {
	var draining []string
	for _, name := range slices.Sorted(maps.Keys(known)) {
		if known[name].draining {
			draining = append(draining, name)
		}
	}
	if len(draining) == 0 {
		return nil
	}
	step := progress.Start(ctx, "[%s] takes pods again", strings.Join(draining, ", "))
	err := n.kubectl(ctx, step, append([]string{"uncordon"}, draining...)...)
	if err == nil {
		err = n.kubectl(ctx, step, append(append([]string{"annotate", "node"}, draining...), annotationDraining+"-")...)
	}
	return step.Done(err)
}
