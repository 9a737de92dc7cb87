package node

import (
	"context"
	"fmt"

	"github.com/docker/docker/api/types/container"
)

// Commit makes an image of the node as docker commit does: of its own layer, without its volumes. The caller must remove the image.
func (n *Node) Commit(ctx context.Context, reference string) error {
	if _, err := n.client.ContainerCommit(ctx, n.id, container.CommitOptions{Reference: reference, Pause: true}); err != nil {
		return fmt.Errorf("committing node %s to %s: %w", n.name, reference, err)
	}
	return nil
}

// RemoveVolume removes a named volume, which Docker makes with the first node that mounts it and keeps when the last one is removed.
func (d *Docker) RemoveVolume(ctx context.Context, name string) error {
	if err := d.client.VolumeRemove(ctx, name, false); err != nil {
		return fmt.Errorf("removing volume %s: %w", name, err)
	}
	return nil
}
