package dockerengine

import (
	"context"
	"fmt"
	"maps"

	"github.com/containerd/errdefs"
	"github.com/docker/docker/api/types/volume"
)

// CreateVolume makes an empty volume. The caller must remove it. One of the same name and labels that is there already is no error; with
// other labels the error is a *TakenError.
func (e *Engine) CreateVolume(ctx context.Context, name string, labels map[string]string) error {
	// The Engine answers with the volume that is there, if there is one, whatever its labels.
	created, err := e.client.VolumeCreate(ctx, volume.CreateOptions{Name: name, Labels: labels})
	if errdefs.IsConflict(err) || err == nil && !maps.Equal(created.Labels, labels) {
		return &TakenError{What: "volume name", Name: name}
	}
	if err != nil {
		return fmt.Errorf("creating volume %s: %w", name, plain(ctx, err))
	}
	return nil
}

// Volumes lists the volumes that have the label, with the value unless that is empty.
func (e *Engine) Volumes(ctx context.Context, label, value string) ([]Labelled, error) {
	found, err := e.client.VolumeList(ctx, volume.ListOptions{Filters: labelFilter(label, value)})
	if err != nil {
		return nil, fmt.Errorf("listing volumes: %w", plain(ctx, err))
	}
	var list []Labelled
	for _, v := range found.Volumes {
		list = append(list, Labelled{ID: v.Name, Labels: v.Labels})
	}
	return list, nil
}

// RemoveVolume removes a volume that no container uses. One that is not there is no error.
func (e *Engine) RemoveVolume(ctx context.Context, name string) error {
	if err := e.client.VolumeRemove(ctx, name, false); err != nil && !errdefs.IsNotFound(err) {
		return fmt.Errorf("removing volume %s: %w", name, plain(ctx, err))
	}
	return nil
}
