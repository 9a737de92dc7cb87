package cluster

import (
	"context"
	"fmt"

	"sigs.k8s.io/yaml"

	"github.com/nodeimg/nodeimg/cluster/config"
	"github.com/nodeimg/nodeimg/recipes"
)

// kubeletPatches is the folder in a node for kubeadm's own patches: those of the image, and those of the node's kubelet.
const kubeletPatches = "/etc/nodeimg/kubeadm-patches"

// kubeletPatch is a file with a patch of a node's kubelet
// (https://kubernetes.io/docs/setup/production-environment/tools/kubeadm/control-plane-flags/#patches).
type kubeletPatch struct{ name, text string }

// split takes the patches of the kubelet that only the node's group has from those of kubeadm's documents. The cluster has one
// KubeletConfiguration for all nodes, which a node takes when it joins; what is special about one is a patch of kubeadm's own.
func (d description) split() (merges []string, operations []config.PatchJSON6902, kubelet []kubeletPatch, err error) {
	add := func(form, text string) {
		// Files are taken by their names.
		kubelet = append(kubelet, kubeletPatch{fmt.Sprintf("kubeletconfiguration%03d+%s.yaml", len(kubelet), form), text})
	}
	for i, text := range d.node.KubeadmPatches {
		var patch struct{ Kind string }
		if err := yaml.Unmarshal([]byte(text), &patch); err != nil {
			return nil, nil, nil, recipes.InputErrorf("reading a kubeadm patch: %v", err)
		}
		if patch.Kind == config.KindKubelet && i >= len(d.spec.KubeadmPatches) {
			add("merge", text)
		} else {
			merges = append(merges, text)
		}
	}
	for i, p := range d.node.KubeadmPatchesJSON6902 {
		if p.Kind == config.KindKubelet && i >= len(d.spec.KubeadmPatchesJSON6902) {
			add("json", p.Patch)
		} else {
			operations = append(operations, p)
		}
	}
	return merges, operations, kubelet, nil
}

// patchKubelet writes the patches of the node's own kubelet where kubeadm takes them, and returns its configuration with that folder.
func (n *member) patchKubelet(ctx context.Context, config string) (string, error) {
	_, _, patches, err := n.described.split()
	if err != nil || len(patches) == 0 {
		return config, err
	}
	list, err := documents(config)
	if err != nil {
		return "", err
	}
	for _, doc := range list {
		if kind := doc["kind"]; kind != "InitConfiguration" && kind != "JoinConfiguration" {
			continue
		}
		in := section(doc, "patches")
		others, _ := in["directory"].(string)
		in["directory"] = kubeletPatches
		if _, err := n.exec(ctx, "sh", "-c", `rm -rf "$0" && mkdir -p "$0" && { [ -z "$1" ] || cp -R "$1/." "$0"; }`, kubeletPatches, others); err != nil {
			return "", fmt.Errorf("copying the patches of %q, which the %s names: %w", others, doc["kind"], err)
		}
	}
	for _, p := range patches {
		if err := n.write(ctx, kubeletPatches+"/"+p.name, p.text); err != nil {
			return "", err
		}
	}
	return encode(list...)
}
