package cluster

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/nodeimg/nodeimg/cluster/config"
	"github.com/nodeimg/nodeimg/internal/dockerengine"
)

// keptDescription is the description of the cluster, as JSON, that every control plane keeps, so that later workers are made like the first
// ones. It is no label, which many programs show, but a file that only root of the node can read: people keep secrets in the environment and
// in patches.
const keptDescription = "/etc/nodeimg/cluster.json"

// remembered is the file keptDescription.
func remembered(spec config.Spec) (dockerengine.File, error) {
	text, err := json.Marshal(spec)
	if err != nil {
		return dockerengine.File{}, fmt.Errorf("encoding the description of the cluster: %w", err)
	}
	return dockerengine.File{Path: keptDescription, Mode: 0o600, Content: text}, nil
}

// recall reads what the control plane n keeps for workers to come: the description of the cluster, and the certificates that nodes trust.
func (n *member) recall(ctx context.Context) (spec config.Spec, certificates []string, err error) {
	text, err := n.exec(ctx, "cat", keptDescription)
	if err != nil {
		return config.Spec{}, nil, err
	}
	if err := json.Unmarshal([]byte(text), &spec); err != nil {
		return config.Spec{}, nil, fmt.Errorf("reading %s of %s: %w", keptDescription, n.name, err)
	}
	if len(spec.CACertificates) == 0 {
		return spec, nil, nil
	}
	text, err = n.exec(ctx, "sh", "-c", `cat "$0"/*.crt`, certificatesPath)
	return spec, splitCertificates([]byte(text)), err
}

// containers are those of new workers, which are like the last group of workers that the cluster was described with, and what the workers
// shall be. like is what the control plane's container was made with.
func (r *resizer) containers(ctx context.Context, like dockerengine.Details, numbers []int) ([]dockerengine.ContainerSpec, []description, error) {
	spec, certificates, err := r.controlPlane.recall(ctx)
	if err != nil {
		return nil, nil, err
	}
	group := spec.Workers.Last()
	if group.Image, err = r.workerImage(ctx, spec, group, like.Image); err != nil {
		return nil, nil, err
	}
	spec.Privileged = like.Privileged
	files, err := startFiles(ctx, r.Engine, group.Image, certificates, spec.RegistryMirrors)
	if err != nil {
		return nil, nil, err
	}
	described := config.Cluster{Metadata: config.Metadata{Name: r.Name}, Spec: spec}
	var specs []dockerengine.ContainerSpec
	var workers []description
	for _, number := range numbers {
		member := spec.Member(group, RoleWorker, number)
		worker := nodeSpec(described, member, like.Runtime)
		worker.Files = files
		specs, workers = append(specs, worker), append(workers, description{spec: spec, node: member})
	}
	return specs, workers, passProxies(ctx, r.Engine, described, specs)
}

// workerImage is the image of new workers: the one asked for, that of the group, or that of the control plane. Names may mean other images
// by now, so a container that was made of the name says which. The error is a *recipes.InputError for an image whose nodes cannot join.
func (r *resizer) workerImage(ctx context.Context, spec config.Spec, group config.Group, controlPlane string) (string, error) {
	if r.Image != "" {
		return r.Image, nil
	}
	name := spec.Member(group, RoleWorker, 1).Image
	if first := spec.Members(); name == "" || len(first) > 0 && name == first[0].Image {
		return controlPlane, nil
	}
	for _, node := range r.cluster.Nodes {
		if node.Role() != RoleWorker {
			continue
		}
		details, err := r.Engine.Details(ctx, node.ID)
		if err != nil {
			return "", err
		}
		if details.Named == name {
			name = details.Image
			break
		}
	}
	return name, r.checkImage(ctx, name)
}
