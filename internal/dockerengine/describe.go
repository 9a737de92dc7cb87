package dockerengine

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"strings"

	"github.com/docker/docker/api/types/container"
)

// DescribeEngine is the Engine's version with those of its parts, as indented JSON.
func (e *Engine) DescribeEngine(ctx context.Context) ([]byte, error) {
	version, err := e.client.ServerVersion(ctx)
	if err != nil {
		return nil, fmt.Errorf("asking the Docker Engine for its version: %w", plain(ctx, err))
	}
	return json.MarshalIndent(version, "", "  ")
}

// DescribeContainer is what "docker inspect" says about a container, as indented JSON, without the values of its environment variables:
// people keep secrets there.
func (e *Engine) DescribeContainer(ctx context.Context, id string) ([]byte, error) {
	found, err := e.client.ContainerInspect(ctx, id)
	if err != nil {
		return nil, fmt.Errorf("inspecting container %s: %w", id, plain(ctx, err))
	}
	if found.Config != nil {
		for i, variable := range found.Config.Env {
			found.Config.Env[i], _, _ = strings.Cut(variable, "=")
		}
	}
	return json.MarshalIndent(found, "", "  ")
}

// Console copies everything to w that a container with a terminal has written to its console.
func (e *Engine) Console(ctx context.Context, id string, w io.Writer) error {
	logs, err := e.client.ContainerLogs(ctx, id, container.LogsOptions{ShowStdout: true, ShowStderr: true})
	if err != nil {
		return fmt.Errorf("reading the console of container %s: %w", id, plain(ctx, err))
	}
	defer logs.Close()
	if _, err := io.Copy(w, logs); err != nil {
		return fmt.Errorf("reading the console of container %s: %w", id, plain(ctx, err))
	}
	return nil
}
