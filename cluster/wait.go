package cluster

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/nodeimg/nodeimg/internal/dockerengine"
	"github.com/nodeimg/nodeimg/internal/progress"
)

// poll is how often a condition is looked at.
const poll = 200 * time.Millisecond

// until calls check until it succeeds. It fails when the limit has passed, with what check said last.
func until(ctx context.Context, limit time.Duration, check func(context.Context) error) error {
	return untilEnd(ctx, limit, fmt.Errorf("not within %s (--wait)", limit), check)
}

// untilEnd is until for a limit that is not the user's; cause says that it has passed.
func untilEnd(ctx context.Context, limit time.Duration, cause error, check func(context.Context) error) error {
	limited, cancel := context.WithTimeoutCause(ctx, limit, cause)
	defer cancel()
	var said error
	for {
		began := time.Now()
		err := check(limited)
		if err == nil {
			return nil
		}
		// What the Engine ran has ended with it.
		if dockerengine.Gone(err) {
			return err
		}
		// Of a check that was cut off only the end would be told.
		if said == nil || limited.Err() == nil {
			said = err
		}
		select {
		case <-limited.Done():
			if cause := context.Cause(ctx); cause != nil {
				return cause
			}
			return fmt.Errorf("%w: %w", context.Cause(limited), said)
		// Whoever asks all the time slows down what he waits for.
		case <-time.After(max(poll, time.Since(began))):
		}
	}
}

// await runs a shell script in the node until it succeeds. It fails when the node's time has passed, with what the script said last.
func (n *member) await(ctx context.Context, script string) error {
	return until(ctx, n.wait, func(ctx context.Context) error { return n.try(ctx, script) })
}

// try runs a shell script in the node. The error is what the script said when it ran and failed.
func (n *member) try(ctx context.Context, script string) error {
	out, err := n.exec(ctx, "sh", "-c", script)
	if exit := new(dockerengine.ExitError); errors.As(err, &exit) {
		return errors.New(strings.TrimSpace(out))
	}
	return err
}

// booted succeeds when the node's entrypoint has written its files and the container runtime answers. A failed unit that has nothing to
// do with that does not matter.
const booted = `[ -e ` + shippedConfig + ` ] && crictl version >/dev/null 2>&1 || { systemctl list-jobs --no-legend --no-pager; exit 1; }`

// bootAll waits until every node has booted.
func bootAll(ctx context.Context, members []*member) error {
	group, groupCtx := errgroup.WithContext(ctx)
	for _, n := range members {
		group.Go(func() error {
			step := progress.Start(groupCtx, "[%s] boot", n.name)
			return step.Done(n.explained(groupCtx, n.boots(groupCtx)))
		})
	}
	return group.Wait()
}

// containerLimit is how often a container may end while it is waited for until it has booted. The Engine starts it again at once for the first
// time, and waits twice as long for each next one: this many take seconds.
const containerLimit = 5

// boots waits until the node has booted, but not for one whose container ends again and again.
func (n *member) boots(ctx context.Context) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	first := -1
	return until(ctx, n.wait, func(ctx context.Context) error {
		err := n.try(ctx, booted)
		if err == nil {
			return nil
		}
		// What cannot be asked now, can the next time.
		details, unknown := n.engine.Details(ctx, n.id)
		switch {
		case unknown != nil:
		case first < 0:
			first = details.Restarts
		case details.Restarts >= first+containerLimit:
			cancel(fmt.Errorf("its container does not last: the Docker Engine has started it %d times again", details.Restarts-first))
		}
		return err
	})
}

// readyPods prints the pods of the system that are not Ready, and succeeds when there are pods and all of them are.
const readyPods = `out=$(kubectl --kubeconfig ` + adminConfig + ` get pods -n kube-system --no-headers 2>&1) || { echo "$out"; exit 1; }
	[ -n "$out" ] && echo "$out" | awk '{ split($2, n, "/"); if (n[1] != n[2] || n[2] < 1) { print; bad = 1 } } END { exit bad }'`

// podReasons are the last lines of some of the pods of the system that are not Ready.
const podReasons = `kubectl --kubeconfig ` + adminConfig + ` get pods -n kube-system --no-headers | awk '{ split($2, n, "/"); if (n[1] != n[2]) print $1 }' | head -n 3 |
	while read -r pod; do
		echo "$pod:"
		kubectl --kubeconfig ` + adminConfig + ` logs -n kube-system --tail 5 --all-containers "$pod" </dev/null 2>&1
	done`

// ready waits for the nodes and for the pods of the system. An image without a pod network cannot be Ready, so nothing is waited for.
func (m *maker) ready(ctx context.Context) error {
	first := m.controlPlanes[0]
	network, err := first.hasPodNetwork(ctx)
	if err != nil || !network {
		return err
	}
	if err := first.awaitReady(ctx, m.name, m.members()); err != nil {
		return err
	}
	step := progress.Start(ctx, "[%s] pods of kube-system Ready", m.name)
	if err := step.Done(first.await(ctx, readyPods)); err != nil {
		limited, cancel := context.WithTimeout(ctx, explainLimit)
		defer cancel()
		out, _ := first.exec(limited, "sh", "-c", podReasons)
		return fmt.Errorf("waiting until the pods of kube-system are Ready: %w\n%s", err, withRemedy(strings.TrimSpace(out)))
	}
	return nil
}

// hasPodNetwork says whether the node has a pod network. Without one, nodes are Ready only when the user has installed one.
func (n *member) hasPodNetwork(ctx context.Context) (bool, error) {
	_, err := n.exec(ctx, "sh", "-c", bridgeNetwork+` || { ! `+otherNetwork+` && [ -e "$0" ]; }`, podNetworkManifest)
	if exit := new(dockerengine.ExitError); errors.As(err, &exit) {
		return false, nil
	}
	return err == nil, err
}

// awaitReady waits until nodes of the cluster, of which n is the control plane, are Ready. The error has what the first one that is not
// says about itself.
func (n *member) awaitReady(ctx context.Context, cluster string, nodes []*member) error {
	step := progress.Start(ctx, "[%s] nodes Ready", cluster)
	var missing []*member
	err := until(ctx, n.wait, func(ctx context.Context) error {
		known, err := n.nodes(ctx)
		if err != nil {
			return err
		}
		if missing = notReady(known, nodes); len(missing) > 0 {
			return fmt.Errorf("not Ready: %s", strings.Join(names(missing), ", "))
		}
		return nil
	})
	if len(missing) > 0 {
		err = missing[0].explained(ctx, err)
	}
	if err = step.Done(err); err != nil {
		return fmt.Errorf("waiting until the nodes of %s are Ready: %w", cluster, err)
	}
	return nil
}

func names(nodes []*member) []string {
	list := make([]string, 0, len(nodes))
	for _, n := range nodes {
		list = append(list, n.name)
	}
	return list
}

// notReady are those of which the API server does not say that they have been Ready since their container was started.
func notReady(known map[string]kubeNode, nodes []*member) []*member {
	return slices.DeleteFunc(slices.Clone(nodes), func(n *member) bool {
		k := known[n.name]
		// The API server's times have whole seconds.
		return k.ready && !k.heartbeat.Before(n.started.Truncate(time.Second))
	})
}

// explainLimit bounds how long a failing node is asked for its reasons.
const explainLimit = 10 * time.Second

// reasons are the file systems of a node that are as good as full, the units that have failed or do so again and again, and the last lines
// that matter of the runtime's and the kubelet's logs.
const reasons = `df -P /var / | awk 'NR > 1 && $4 < 102400 { print "no space: " $6 " has " $4 " KiB of " $2 " KiB left" }'
	systemctl list-units --state=failed,auto-restart --plain --no-legend --no-pager
	journalctl --no-pager -n 15 -o short-monotonic -p warning -u containerd -u docker -u cri-docker -u crio -u nodeimg-store
	journalctl --no-pager -n 15 -o short-monotonic -u kubelet
	journalctl --no-pager -o short-monotonic | grep -i -m 1 '` + crowded + `'`

// crowded is what programs say when root has no instance of inotify left, of which each node needs some more than a dozen.
const crowded = "too many open files"

// withRemedy adds to what a node has said what helps.
func withRemedy(said string) string {
	if !strings.Contains(strings.ToLower(said), crowded) {
		return said
	}
	return said + "\nRoot of the host has probably no instance of inotify left for more nodes: sysctl -w fs.inotify.max_user_instances=1024 there, and the same " +
		"in a file in /etc/sysctl.d; nodeimg doctor looks at it"
}

// explained adds to err what the node says about itself.
func (n *member) explained(ctx context.Context, err error) error {
	if err == nil || ctx.Err() != nil {
		return err
	}
	limited, cancel := context.WithTimeout(ctx, explainLimit)
	defer cancel()
	out, execErr := n.exec(limited, "sh", "-c", reasons)
	if execErr != nil && out == "" {
		// A container that has ended says why on its console.
		console, consoleErr := n.engine.Logs(limited, n.id)
		out = errors.Join(execErr, consoleErr).Error() + "\n" + console
	}
	return fmt.Errorf("node %s: %w\n%s", n.name, err, withRemedy(strings.TrimSpace(out)))
}
