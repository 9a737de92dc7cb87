package node

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/image"
	"github.com/docker/docker/api/types/mount"
	"github.com/docker/docker/api/types/network"
	"github.com/docker/docker/client"
)

// Docker is a connection to a Docker Engine. The caller must Close it.
type Docker struct {
	client *client.Client
}

// Connect connects to the Engine at host, as in DOCKER_HOST.
func Connect(ctx context.Context, host string) (*Docker, error) {
	c, err := client.NewClientWithOpts(client.WithHost(host), client.WithAPIVersionNegotiation())
	if err == nil {
		_, err = c.Ping(ctx)
	}
	if err != nil {
		return nil, fmt.Errorf("connecting to the Docker Engine at %s: %w", host, err)
	}
	return &Docker{client: c}, nil
}

// Close ends the connection.
func (d *Docker) Close() error { return d.client.Close() }

// Load loads a docker-archive.
func (d *Docker) Load(ctx context.Context, archive io.Reader) error {
	response, err := d.client.ImageLoad(ctx, archive, client.ImageLoadWithQuiet(true))
	if err != nil {
		return fmt.Errorf("loading an image: %w", err)
	}
	defer response.Body.Close()
	if _, err := io.Copy(io.Discard, response.Body); err != nil {
		return fmt.Errorf("loading an image: %w", err)
	}
	return nil
}

// Import makes an image of one layer out of a tar of a root file system. Changes are Dockerfile instructions.
func (d *Docker) Import(ctx context.Context, reference string, rootfs io.Reader, changes ...string) error {
	body, err := d.client.ImageImport(ctx, image.ImportSource{Source: rootfs, SourceName: "-"}, reference, image.ImportOptions{Changes: changes})
	if err != nil {
		return fmt.Errorf("importing %s: %w", reference, err)
	}
	defer body.Close()
	if _, err := io.Copy(io.Discard, body); err != nil {
		return fmt.Errorf("importing %s: %w", reference, err)
	}
	return nil
}

// RemoveImage removes an image by reference.
func (d *Docker) RemoveImage(ctx context.Context, reference string) error {
	if _, err := d.client.ImageRemove(ctx, reference, image.RemoveOptions{Force: true}); err != nil {
		return fmt.Errorf("removing image %s: %w", reference, err)
	}
	return nil
}

// Network makes a bridge network; an internal one has no route out. The caller must call remove, after the nodes on it are gone.
func (d *Docker) Network(ctx context.Context, name string, internal bool) (remove func(context.Context) error, err error) {
	if _, err := d.client.NetworkCreate(ctx, name, network.CreateOptions{Driver: "bridge", Internal: internal}); err != nil {
		return nil, fmt.Errorf("creating network %s: %w", name, err)
	}
	return func(ctx context.Context) error {
		if err := d.client.NetworkRemove(ctx, name); err != nil {
			return fmt.Errorf("removing network %s: %w", name, err)
		}
		return nil
	}, nil
}

// Options say how a node runs.
type Options struct {
	// Image is the node image, Name the node's name and host name, Network the network that it joins.
	Image, Name, Network string
	// Env is added to the image's environment.
	Env []string
	// Command replaces the image's command; empty leaves it.
	Command []string
	// PlainVar leaves /var in the container's own layer, as a plain docker run does; otherwise it is an anonymous volume, as for
	// stock kind.
	PlainVar bool
	// Volumes are mounted in addition, by path: each value is a volume's name, or empty for an anonymous volume.
	Volumes map[string]string
	// ReadOnly keeps the container's own layer from being written to.
	ReadOnly bool
	// Runtime is the Engine's runtime to use; empty means its default.
	Runtime string
}

// Node is a running node. The caller must Remove it.
type Node struct {
	client *client.Client
	id     string
	name   string
}

// Start starts a node with the options of stock kind v0.33 (pkg/cluster/internal/providers/docker/provision.go): privileged, no
// confinement, a cgroup namespace of its own, /tmp and /run empty, /var an anonymous volume.
func (d *Docker) Start(ctx context.Context, options Options) (*Node, error) {
	initProcess := false
	host := &container.HostConfig{
		Privileged:     true,
		SecurityOpt:    []string{"seccomp=unconfined", "apparmor=unconfined"},
		CgroupnsMode:   container.CgroupnsModePrivate,
		Init:           &initProcess,
		Runtime:        options.Runtime,
		ReadonlyRootfs: options.ReadOnly,
		NetworkMode:    container.NetworkMode(options.Network),
		Tmpfs:          map[string]string{"/tmp": "", "/run": ""},
	}
	if !options.PlainVar {
		host.Mounts = []mount.Mount{{Type: mount.TypeVolume, Target: "/var"}}
	}
	for target, name := range options.Volumes {
		host.Mounts = append(host.Mounts, mount.Mount{Type: mount.TypeVolume, Source: name, Target: target})
	}
	created, err := d.client.ContainerCreate(ctx, &container.Config{
		Image: options.Image, Hostname: options.Name, Env: options.Env, Cmd: options.Command, Tty: true,
	}, host, nil, nil, options.Name)
	if err != nil {
		return nil, fmt.Errorf("creating node %s: %w", options.Name, err)
	}
	n := &Node{client: d.client, id: created.ID, name: options.Name}
	if err := d.client.ContainerStart(ctx, created.ID, container.StartOptions{}); err != nil {
		err = fmt.Errorf("starting node %s: %w", options.Name, err)
		return nil, errors.Join(err, n.Remove(context.WithoutCancel(ctx)))
	}
	return n, nil
}

// Remove kills and removes the node with its volumes.
func (n *Node) Remove(ctx context.Context) error {
	if err := n.client.ContainerRemove(ctx, n.id, container.RemoveOptions{Force: true, RemoveVolumes: true}); err != nil {
		return fmt.Errorf("removing node %s: %w", n.name, err)
	}
	return nil
}

// Restart stops the node as docker restart does, with the image's stop signal, and starts it again.
func (n *Node) Restart(ctx context.Context) error {
	timeout := int((30 * time.Second).Seconds())
	if err := n.client.ContainerRestart(ctx, n.id, container.StopOptions{Timeout: &timeout}); err != nil {
		return fmt.Errorf("restarting node %s: %w", n.name, err)
	}
	return nil
}

// Move stops the node, moves it from one network to another, where it has another address, and starts it again.
func (n *Node) Move(ctx context.Context, from, to string) error {
	timeout := int((30 * time.Second).Seconds())
	if err := n.client.ContainerStop(ctx, n.id, container.StopOptions{Timeout: &timeout}); err != nil {
		return fmt.Errorf("stopping node %s: %w", n.name, err)
	}
	if err := n.client.NetworkDisconnect(ctx, from, n.id, false); err != nil {
		return fmt.Errorf("taking node %s off network %s: %w", n.name, from, err)
	}
	if err := n.client.NetworkConnect(ctx, to, n.id, nil); err != nil {
		return fmt.Errorf("putting node %s on network %s: %w", n.name, to, err)
	}
	if err := n.client.ContainerStart(ctx, n.id, container.StartOptions{}); err != nil {
		return fmt.Errorf("starting node %s: %w", n.name, err)
	}
	return nil
}

// Console returns everything that the node's PID 1 has written.
func (n *Node) Console(ctx context.Context) (string, error) {
	logs, err := n.client.ContainerLogs(ctx, n.id, container.LogsOptions{ShowStdout: true, ShowStderr: true})
	if err != nil {
		return "", fmt.Errorf("reading the console of node %s: %w", n.name, err)
	}
	defer logs.Close()
	b, err := io.ReadAll(logs)
	if err != nil {
		return "", fmt.Errorf("reading the console of node %s: %w", n.name, err)
	}
	return string(b), nil
}

// Address is the node's IPv4 address on the network.
func (n *Node) Address(ctx context.Context, network string) (string, error) {
	inspected, err := n.client.ContainerInspect(ctx, n.id)
	if err != nil {
		return "", fmt.Errorf("inspecting node %s: %w", n.name, err)
	}
	endpoint := inspected.NetworkSettings.Networks[network]
	if endpoint == nil {
		return "", fmt.Errorf("inspecting node %s: it is not on network %s", n.name, network)
	}
	return endpoint.IPAddress, nil
}
