package cluster

import (
	"context"
	"errors"
	"maps"
	"slices"
	"strings"

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
			if err := n.kubectl(ctx, step, append(marked, annotationDraining+"=")...); err != nil {
				return err
			}
		}
		err = n.kubectl(ctx, step, append([]string{"drain", "--ignore-daemonsets", "--delete-emptydir-data", "--force",
			"--skip-wait-for-delete-timeout", overdue, "--timeout", n.wait.String()}, nodes...)...)
		if err == nil {
			return nil
		}
		clean, cancel := context.WithTimeout(context.WithoutCancel(ctx), removeLimit)
		defer cancel()
		known, cleanErr := n.nodes(clean)
		if cleanErr == nil {
			cleanErr = n.uncordon(clean, known)
		}
		return errors.Join(err, cleanErr)
	}())
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
