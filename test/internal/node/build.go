package node

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/docker/docker/api/types/build"
	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/pkg/jsonmessage"

	"github.com/nodeimg/nodeimg/test/internal/archive"
)

// Build builds an image as plain docker build does with the Engine's own builder: files are the build context by path, with a Dockerfile;
// network is where the steps run. It returns what the build said; so does the error.
func (d *Docker) Build(ctx context.Context, reference, network string, files map[string]string) (string, error) {
	fail := func(err error) error { return fmt.Errorf("building %s: %w", reference, err) }
	var entries []archive.File
	for _, name := range slices.Sorted(maps.Keys(files)) {
		entries = append(entries, archive.Program(name, []byte(files[name])))
	}
	var folder bytes.Buffer
	if err := archive.Write(&folder, entries...); err != nil {
		return "", fail(err)
	}
	response, err := d.client.ImageBuild(ctx, &folder, build.ImageBuildOptions{
		Tags: []string{reference}, NetworkMode: network, NoCache: true, Remove: true, ForceRemove: true,
	})
	if err != nil {
		return "", fail(err)
	}
	defer response.Body.Close()
	var said bytes.Buffer
	if err := jsonmessage.DisplayJSONMessagesStream(response.Body, &said, 0, false, nil); err != nil {
		return said.String(), fail(fmt.Errorf("%w\n%s", err, said.String()))
	}
	return said.String(), nil
}

// Serve starts an ordinary container of the image on the network; others there find it by name. What it returns is a node only in that it
// can be looked into and must be removed.
func (d *Docker) Serve(ctx context.Context, image, name, network string) (*Node, error) {
	created, err := d.client.ContainerCreate(ctx, &container.Config{Image: image}, &container.HostConfig{NetworkMode: container.NetworkMode(network)}, nil, nil, name)
	if err != nil {
		return nil, fmt.Errorf("creating container %s: %w", name, err)
	}
	n := &Node{client: d.client, id: created.ID, name: name}
	if err := d.client.ContainerStart(ctx, created.ID, container.StartOptions{}); err != nil {
		err = fmt.Errorf("starting container %s: %w", name, err)
		return nil, errors.Join(err, n.Remove(context.WithoutCancel(ctx)))
	}
	return n, nil
}

// WaitSaid waits until the container has written the text.
func (n *Node) WaitSaid(ctx context.Context, limit time.Duration, text string) error {
	ctx, cancel := context.WithTimeoutCause(ctx, limit, errors.New("it did not happen in "+limit.String()))
	defer cancel()
	for {
		said, err := n.Console(ctx)
		if err == nil && strings.Contains(said, text) {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("waiting for container %s to say %q: %w: it said %s", n.name, text, errors.Join(context.Cause(ctx), err), said)
		case <-time.After(poll):
		}
	}
}
