package dockerengine

import (
	"archive/tar"
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net/netip"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/filters"
	"github.com/docker/docker/api/types/mount"
	"github.com/docker/go-connections/nat"
)

// TakenError says that something else in the Engine has the name, or the host's port.
type TakenError struct {
	// What is container name, network name, volume name or port.
	What, Name string
}

// Error implements error.
func (e *TakenError) Error() string { return fmt.Sprintf("the %s %s is taken already", e.What, e.Name) }

// ContainerSpec is a container to create. Fields that are empty are the Engine's own defaults.
type ContainerSpec struct {
	Name, Hostname, Image string
	Labels                map[string]string
	// Runtime is one of Runtimes.Names.
	Runtime string
	// Privileged grants everything and takes every confinement away.
	Privileged bool
	// Confined takes everything away that a program does not need which only listens and writes to Tmpfs: root, capabilities, new privileges
	// and the writable root file system.
	Confined bool
	// Entrypoint is run instead of the image's entrypoint and command, StopSignal ends it in order.
	Entrypoint []string
	StopSignal string
	// Network is joined from the start.
	Network string
	// Tmpfs are folders in memory, Volumes folders with an anonymous volume each, which has the container's labels: an Engine that is killed
	// while it removes the container leaves them.
	Tmpfs, Volumes []string
	// Mounts are files and folders of the host.
	Mounts []Mount
	// Publish are ports of the container that are reachable on the host.
	Publish []PublishedPort
	// Env are variables as NAME=VALUE, beside the image's.
	Env []string
	// Memory is what the container may use at most, in bytes, CPUs how many processors; 0 means no limit.
	Memory int64
	CPUs   float64
	// Files are in the container when it starts.
	Files []File
}

// Mount is a file or folder of the host in a container.
type Mount struct {
	Source, Target string
	ReadOnly       bool
	// Propagation is rprivate, rslave or rshared; empty means rprivate.
	Propagation string
}

// File is a regular file of root.
type File struct {
	// Path is absolute.
	Path    string
	Mode    fs.FileMode
	Content []byte
}

// PublishedPort is a port of a container on the host.
type PublishedPort struct {
	// Protocol is tcp or udp; empty means tcp.
	Protocol string
	// Host is the address and port on the host; port 0 lets the Engine choose.
	Host netip.AddrPort
	// Container is the port in the container.
	Container uint16
}

// Container is what the Engine knows about a container.
type Container struct {
	ID, Name string
	Labels   map[string]string
	// Image is the name that it was created with, or its id when the name is another image's by now.
	Image string
	// State is created, running, exited, …
	State string
	// Published are the ports that are reachable on the host.
	Published []PublishedPort
}

// nobody is the user and group of confined containers, which own no file of any distribution.
const nobody = "65534"

// CreateContainer makes a container with a cgroup namespace of its own, a terminal and no init of Docker's, which starts again with the
// Engine until StopContainer. The caller must remove it. The error is a *TakenError when the name is taken.
func (e *Engine) CreateContainer(ctx context.Context, spec ContainerSpec) (id string, err error) {
	initProcess := false
	host := &container.HostConfig{
		Privileged:    spec.Privileged,
		Runtime:       spec.Runtime,
		CgroupnsMode:  container.CgroupnsModePrivate,
		Init:          &initProcess,
		NetworkMode:   container.NetworkMode(spec.Network),
		RestartPolicy: container.RestartPolicy{Name: container.RestartPolicyAlways},
		PortBindings:  nat.PortMap{},
		Tmpfs:         map[string]string{},
		Resources:     container.Resources{Memory: spec.Memory, NanoCPUs: int64(spec.CPUs * 1e9)},
	}
	if spec.Privileged {
		host.SecurityOpt = []string{"seccomp=unconfined", "apparmor=unconfined"}
	}
	user, tmpfs := "", ""
	if spec.Confined {
		// The mode of a folder in memory is that of the image's folder, whatever is asked for (runc 1.1).
		user, tmpfs = nobody+":"+nobody, "uid="+nobody+",gid="+nobody
		host.SecurityOpt = []string{"no-new-privileges"}
		host.CapDrop = []string{"ALL"}
		host.ReadonlyRootfs = true
	}
	for _, path := range spec.Tmpfs {
		host.Tmpfs[path] = tmpfs
	}
	for _, path := range spec.Volumes {
		host.Mounts = append(host.Mounts, mount.Mount{
			Type: mount.TypeVolume, Target: path, VolumeOptions: &mount.VolumeOptions{Labels: spec.Labels},
		})
	}
	for _, m := range spec.Mounts {
		host.Mounts = append(host.Mounts, mount.Mount{
			Type: mount.TypeBind, Source: m.Source, Target: m.Target, ReadOnly: m.ReadOnly,
			BindOptions: &mount.BindOptions{Propagation: mount.Propagation(m.Propagation)},
		})
	}
	exposed := nat.PortSet{}
	for _, p := range spec.Publish {
		port := nat.Port(fmt.Sprintf("%d/%s", p.Container, cmp.Or(p.Protocol, "tcp")))
		exposed[port] = struct{}{}
		host.PortBindings[port] = append(host.PortBindings[port], nat.PortBinding{
			HostIP: p.Host.Addr().String(), HostPort: strconv.Itoa(int(p.Host.Port())),
		})
	}
	created, err := e.client.ContainerCreate(ctx, &container.Config{
		Image: spec.Image, Hostname: spec.Hostname, Labels: spec.Labels, Env: spec.Env, Tty: true, ExposedPorts: exposed,
		Entrypoint: spec.Entrypoint, StopSignal: spec.StopSignal, User: user,
	}, host, nil, nil, spec.Name)
	switch {
	case errdefs.IsConflict(err):
		return "", &TakenError{What: "container name", Name: spec.Name}
	case errdefs.IsNotFound(err) && strings.Contains(err.Error(), "image"):
		return "", &NotFoundError{Reference: spec.Image}
	case err != nil:
		return "", fmt.Errorf("creating container %s: %w", spec.Name, plain(ctx, err))
	}
	if err := e.writeFiles(ctx, created.ID, spec.Files); err != nil {
		return "", errors.Join(fmt.Errorf("creating container %s: %w", spec.Name, err), e.RemoveContainer(context.WithoutCancel(ctx), created.ID))
	}
	return created.ID, nil
}

// writeFiles puts files into a container, with the folders on the way that it lacks.
func (e *Engine) writeFiles(ctx context.Context, id string, files []File) error {
	if len(files) == 0 {
		return nil
	}
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, f := range files {
		header := &tar.Header{Typeflag: tar.TypeReg, Name: strings.TrimPrefix(f.Path, "/"), Mode: int64(f.Mode.Perm()), Size: int64(len(f.Content))}
		if err := w.WriteHeader(header); err != nil {
			return fmt.Errorf("writing %s: %w", f.Path, err)
		}
		if _, err := w.Write(f.Content); err != nil {
			return fmt.Errorf("writing %s: %w", f.Path, err)
		}
	}
	if err := w.Close(); err != nil {
		return err
	}
	if err := e.client.CopyToContainer(ctx, id, "/", &b, container.CopyToContainerOptions{}); err != nil {
		return fmt.Errorf("writing files into it: %w", plain(ctx, err))
	}
	return nil
}

// restarts says whether the container starts again with the Engine. The Engine's own policy for that, unless-stopped, is of no use: an Engine
// that was killed ends at its next start what still runs, and takes it for stopped.
func (e *Engine) restarts(ctx context.Context, id string, policy container.RestartPolicyMode) error {
	_, err := e.client.ContainerUpdate(ctx, id, container.UpdateConfig{RestartPolicy: container.RestartPolicy{Name: policy}})
	return err
}

// StartContainer starts a container, also with the Engine from now on. One that runs is no error. The error is a *TakenError when a port of
// the host is taken.
func (e *Engine) StartContainer(ctx context.Context, id string) error {
	err := e.restarts(ctx, id, container.RestartPolicyAlways)
	if err == nil {
		err = e.client.ContainerStart(ctx, id, container.StartOptions{})
	}
	if err == nil {
		return nil
	}
	if text := err.Error(); strings.Contains(text, "port is already allocated") || strings.Contains(text, "address already in use") {
		return fmt.Errorf("starting container %s: %w", id, &TakenError{What: "port", Name: takenPort(text)})
	}
	return fmt.Errorf("starting container %s: %w", id, plain(ctx, err))
}

// takenPort is what the Engine says about a port, after its own prefixes.
func takenPort(text string) string {
	if i := strings.Index(text, "Bind for "); i >= 0 {
		rest, _, _ := strings.Cut(text[i+len("Bind for "):], " ")
		return rest
	}
	return "(" + text + ")"
}

// removePoll is how often RemoveContainer looks whether somebody else has removed the container.
const removePoll = 50 * time.Millisecond

// RemoveContainer kills and removes a container with its anonymous volumes, and returns when it is gone, whoever has removed it. One that
// is not there is no error.
func (e *Engine) RemoveContainer(ctx context.Context, id string) error {
	for {
		err := e.client.ContainerRemove(ctx, id, container.RemoveOptions{Force: true, RemoveVolumes: true})
		switch {
		case err == nil || errdefs.IsNotFound(err):
			return nil
		case strings.Contains(err.Error(), "did not receive an exit event"):
			return fmt.Errorf("removing container %s: %w; a process in it may be frozen, docs/clusters.md says under Faults how to thaw it", id, plain(ctx, err))
		case !errdefs.IsConflict(err) || !strings.Contains(err.Error(), "already in progress"):
			return fmt.Errorf("removing container %s: %w", id, plain(ctx, err))
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("removing container %s: %w: %w", id, context.Cause(ctx), err)
		case <-time.After(removePoll):
		}
	}
}

// Containers lists the containers that have the label, with the value unless that is empty, sorted by name. Stopped ones count.
func (e *Engine) Containers(ctx context.Context, label, value string) ([]Container, error) {
	listed, err := e.client.ContainerList(ctx, container.ListOptions{All: true, Filters: labelFilter(label, value)})
	if err != nil {
		return nil, fmt.Errorf("listing containers: %w", plain(ctx, err))
	}
	var found []Container
	for _, c := range listed {
		entry := Container{ID: c.ID, Labels: c.Labels, Image: c.Image, State: c.State}
		if len(c.Names) > 0 {
			entry.Name = strings.TrimPrefix(c.Names[0], "/")
		}
		for _, p := range c.Ports {
			if address, err := netip.ParseAddr(p.IP); err == nil && p.PublicPort != 0 {
				entry.Published = append(entry.Published, PublishedPort{
					Protocol: p.Type, Host: netip.AddrPortFrom(address, p.PublicPort), Container: p.PrivatePort,
				})
			}
		}
		found = append(found, entry)
	}
	slices.SortFunc(found, func(a, b Container) int { return strings.Compare(a.Name, b.Name) })
	return found, nil
}

func labelFilter(label, value string) filters.Args {
	if value != "" {
		label += "=" + value
	}
	return filters.NewArgs(filters.Arg("label", label))
}

// Runtimes are the OCI runtimes that the Engine can start containers with.
type Runtimes struct {
	// Names are sorted.
	Names []string
	// Default is the name of the one for containers that name none.
	Default string
	// Programs are the base names of the files behind the names, as far as the Engine tells.
	Programs map[string]string
}

// Runtimes asks the Engine for its OCI runtimes.
func (e *Engine) Runtimes(ctx context.Context) (Runtimes, error) {
	info, err := e.client.Info(ctx)
	if err != nil {
		return Runtimes{}, fmt.Errorf("asking the Docker Engine what it can do: %w", plain(ctx, err))
	}
	if len(info.Runtimes) == 0 {
		return Runtimes{}, errors.New("asking the Docker Engine what it can do: it names no runtime")
	}
	runtimes := Runtimes{Names: slices.Sorted(maps.Keys(info.Runtimes)), Default: info.DefaultRuntime, Programs: map[string]string{}}
	for name, runtime := range info.Runtimes {
		if runtime.Path != "" {
			runtimes.Programs[name] = path.Base(runtime.Path)
		}
	}
	return runtimes, nil
}

// Details are what the Engine tells about a container only when it is asked for this one.
type Details struct {
	// Image is the name of what the container was created of, or its digest when the name is another image's by now.
	Image string
	// Named is the name that it was created with, whatever that means by now.
	Named string
	// Runtime and Privileged are as in ContainerSpec.
	Runtime    string
	Privileged bool
	// Started is when it was last started.
	Started time.Time
	// Restarts is how often it has ended by itself and was started again, since StartContainer has started it.
	Restarts int
}

// Details looks at one container.
func (e *Engine) Details(ctx context.Context, id string) (Details, error) {
	found, err := e.client.ContainerInspect(ctx, id)
	if err != nil {
		return Details{}, fmt.Errorf("looking at container %s: %w", id, plain(ctx, err))
	}
	if found.ContainerJSONBase == nil || found.HostConfig == nil || found.State == nil || found.Config == nil {
		return Details{}, fmt.Errorf("looking at container %s: the Docker Engine's answer is not whole", id)
	}
	details := Details{
		Image: found.Config.Image, Named: found.Config.Image, Runtime: found.HostConfig.Runtime, Privileged: found.HostConfig.Privileged,
		Restarts: found.RestartCount,
	}
	if named, err := e.ImageID(ctx, details.Image); err != nil || named.String() != found.Image {
		details.Image = found.Image
	}
	if details.Started, err = time.Parse(time.RFC3339Nano, found.State.StartedAt); err != nil {
		return Details{}, fmt.Errorf("looking at container %s: %w", id, err)
	}
	return details, nil
}

// StopContainer ends a container in its own orderly way, and kills it after the Engine's usual time. It does not start with the Engine any
// more. One that does not run is no error.
func (e *Engine) StopContainer(ctx context.Context, id string) error {
	err := e.restarts(ctx, id, container.RestartPolicyDisabled)
	if err == nil {
		err = e.client.ContainerStop(ctx, id, container.StopOptions{})
	}
	if err != nil {
		return fmt.Errorf("stopping container %s: %w", id, plain(ctx, err))
	}
	return nil
}
