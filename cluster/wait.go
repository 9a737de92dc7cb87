package cluster

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/nodeimg/nodeimg/internal/progress"
)

// poll is how often a condition is looked at.
const poll = 200 * time.Millisecond

// await runs a shell script in the node until it succeeds. It fails when the limit has passed, with what the script said last.
func (m *maker) await(ctx context.Context, n *member, limit time.Duration, script string) error {
	limited, cancel := context.WithTimeoutCause(ctx, limit, fmt.Errorf("not within %s (--wait)", limit))
	defer cancel()
	for {
		out, err := m.Engine.Exec(limited, n.id, nil, nil, "sh", "-c", script)
		if err == nil {
			return nil
		}
		select {
		case <-limited.Done():
			if cause := context.Cause(ctx); cause != nil {
				return cause
			}
			return fmt.Errorf("%w: %s", context.Cause(limited), strings.TrimSpace(out))
		case <-time.After(poll):
		}
	}
}

// booted succeeds when the node's entrypoint has written its files and the container runtime answers. A failed unit that has nothing to
// do with that does not matter.
const booted = `[ -e ` + shippedConfig + ` ] && crictl version >/dev/null 2>&1 || { systemctl list-jobs --no-legend --no-pager; exit 1; }`

// bootAll waits until every node has booted.
func (m *maker) bootAll(ctx context.Context) error {
	group, groupCtx := errgroup.WithContext(ctx)
	for _, n := range m.members() {
		group.Go(func() error {
			step := progress.Start(groupCtx, "[%s] boot", n.name)
			err := m.await(groupCtx, n, m.Wait, booted)
			return step.Done(m.explained(groupCtx, n, err))
		})
	}
	return group.Wait()
}

// readyNodes and readyPods print what is not Ready, and succeed when there is nothing.
const (
	readyNodes = `out=$(kubectl --kubeconfig ` + adminConfig + ` get nodes --no-headers 2>&1) || { echo "$out"; exit 1; }
		[ "$(echo "$out" | wc -l)" -ge %d ] || { echo "$out"; exit 1; }
		echo "$out" | awk '$2 != "Ready" { print; bad = 1 } END { exit bad }'`
	readyPods = `out=$(kubectl --kubeconfig ` + adminConfig + ` get pods -n kube-system --no-headers 2>&1) || { echo "$out"; exit 1; }
		[ -n "$out" ] && echo "$out" | awk '{ split($2, n, "/"); if (n[1] != n[2] || n[2] < 1) { print; bad = 1 } } END { exit bad }'`
)

// ready waits for the nodes and for the pods of the system. An image without a pod network cannot be Ready, so nothing is waited for.
func (m *maker) ready(ctx context.Context) error {
	if _, err := m.Engine.Exec(ctx, m.controlPlane.id, nil, nil, "test", "-e", podNetworkManifest); err != nil {
		return nil
	}
	step := progress.Start(ctx, "[%s] nodes Ready", m.Name)
	if err := step.Done(m.await(ctx, m.controlPlane, m.Wait, fmt.Sprintf(readyNodes, len(m.members())))); err != nil {
		return fmt.Errorf("waiting until all nodes of %s are Ready: %w", m.Name, err)
	}
	step = progress.Start(ctx, "[%s] pods of kube-system Ready", m.Name)
	if err := step.Done(m.await(ctx, m.controlPlane, m.Wait, readyPods)); err != nil {
		return fmt.Errorf("waiting until the pods of kube-system are Ready: %w", err)
	}
	return nil
}

// explainLimit bounds how long a failing node is asked for its reasons.
const explainLimit = 10 * time.Second

// reasons are the units of a node that have failed, and the last lines that matter of the runtime's and the kubelet's logs.
const reasons = `systemctl list-units --failed --plain --no-legend --no-pager
	journalctl --no-pager -n 15 -o short-monotonic -p warning -u containerd -u docker -u cri-docker -u crio -u nodeimg-store
	journalctl --no-pager -n 15 -o short-monotonic -u kubelet`

// explained adds to err what the node says about itself.
func (m *maker) explained(ctx context.Context, n *member, err error) error {
	if err == nil || ctx.Err() != nil {
		return err
	}
	limited, cancel := context.WithTimeout(ctx, explainLimit)
	defer cancel()
	out, execErr := m.Engine.Exec(limited, n.id, nil, nil, "sh", "-c", reasons)
	if execErr != nil && out == "" {
		// A container that has ended says why on its console.
		console, consoleErr := m.Engine.Logs(limited, n.id)
		out = errors.Join(execErr, consoleErr).Error() + "\n" + console
	}
	return fmt.Errorf("node %s: %w\n%s", n.name, err, strings.TrimSpace(out))
}
