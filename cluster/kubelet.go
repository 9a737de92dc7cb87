package cluster

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"time"
)

const (
	// restartLimit is how often systemd may start a kubelet again that kubeadm waits for. A slow kubelet runs, as does one whose API server
	// does not answer; one ends that the API server does not know yet, which is over after a start or two. That many starts take the longer
	// the slower a machine is.
	restartLimit = 10
	// restartPoll is how often the number of starts is looked at: most kubeadms have ended before the second time.
	restartPoll = 5 * time.Second
)

// whileKubeletLasts calls do, and ends its context with the reason when the node's kubelet ends again and again: kubeadm itself would wait
// for that one as long as for a slow one.
func (n *member) whileKubeletLasts(ctx context.Context, do func(context.Context) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	var watch sync.WaitGroup
	watch.Go(func() {
		for {
			select {
			case <-ctx.Done():
				return
			case <-time.After(restartPoll):
			}
			// What cannot be asked now, can the next time; if nothing can, do fails by itself.
			out, _ := n.exec(ctx, "systemctl", "show", "--property", "NRestarts", "--value", "kubelet.service")
			if restarts, err := strconv.Atoi(strings.TrimSpace(out)); err == nil && restarts >= restartLimit {
				cancel(fmt.Errorf("kubelet.service does not last: systemd has started it %d times again", restarts))
			}
		}
	})
	defer watch.Wait()
	defer cancel(nil)
	return do(ctx)
}
