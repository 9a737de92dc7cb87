package dockerfiles

import (
	"fmt"
	"slices"
	"strings"

	"github.com/nodeimg/nodeimg/recipes"
)

// criRuntime is what differs between the container runtimes of a node.
type criRuntime struct {
	// files are folders below node with the runtime's own files.
	files []string
	// rendered are the runtime's own templates, by the path that they are rendered to.
	rendered map[string]string
	// socket is where the Container Runtime Interface listens.
	socket string
	// unit is the runtime's systemd unit.
	unit string
	// containerd is the socket of a containerd that is not itself the node's Container Runtime Interface.
	containerd string
	// environment of every process in the node image's containers, systemd's units excepted.
	environment []string
	// volume is a folder that cannot lie on the container's own file system.
	volume string
}

// dockerContainerd is where the Docker Engine's containerd listens. kubeadm takes every socket at a customary place for a runtime, and
// stops when it finds two (k8s.io/kubernetes/cmd/kubeadm/app/constants, CRISocketContainerd).
const dockerContainerd = "/run/docker-containerd/containerd.sock"

var criRuntimes = map[recipes.CRIName]criRuntime{
	recipes.CRIContainerd: {
		files:    []string{"containerd"},
		rendered: map[string]string{containerdPath: "containerd.toml.tmpl"},
		socket:   "unix:///run/containerd/containerd.sock",
		unit:     "containerd.service",
	},
	// The Docker Engine stands on containerd and keeps its images there (its feature containerd-snapshotter), so that the same store, trees
	// and boot serve; cri-dockerd is the kubelet's way to it.
	recipes.CRIDocker: {
		files:      []string{"containerd", "docker", "oci-runtime"},
		rendered:   map[string]string{containerdPath: "containerd.toml.tmpl", "etc/default/cri-docker": "cri-docker.env.tmpl"},
		socket:     "unix:///run/cri-dockerd.sock",
		unit:       "docker.service",
		containerd: dockerContainerd,
		// For ctr, and for pull-images.sh in a build step.
		environment: []string{"CONTAINERD_ADDRESS=" + dockerContainerd, "CONTAINERD_NAMESPACE=moby"},
	},
	// CRI-O has no native snapshotter to fall back to: its overlays need a volume.
	recipes.CRICRIO: {
		files:    []string{"crio", "oci-runtime"},
		rendered: map[string]string{"etc/crio/crio.conf": "crio.conf.tmpl"},
		socket:   "unix:///run/crio/crio.sock",
		unit:     "crio.service",
		volume:   "/var/lib/containers",
	},
}

func criRuntimeOf(recipe recipes.Recipe) (criRuntime, error) {
	r, ok := criRuntimes[recipe.Spec.CRI.Name]
	if !ok {
		return r, fmt.Errorf("no files for the container runtime %q", recipe.Spec.CRI.Name)
	}
	return r, nil
}

// runtimeValues are what the templates of a runtime may name.
type runtimeValues struct {
	SandboxImage, CRISocket, Unit, Address string
}

func (r criRuntime) values(sandbox string) runtimeValues {
	return runtimeValues{SandboxImage: sandbox, CRISocket: r.socket, Unit: r.unit, Address: r.containerd}
}

// imageConfig is the runtime's part of the image's config.
func (r criRuntime) imageConfig() string {
	var b strings.Builder
	for _, variable := range slices.Sorted(slices.Values(r.environment)) {
		fmt.Fprintf(&b, "ENV %s\n", variable)
	}
	if r.volume != "" {
		fmt.Fprintf(&b, "VOLUME %s\n", r.volume)
	}
	return b.String()
}
