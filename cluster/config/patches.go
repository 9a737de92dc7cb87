package config

import (
	"fmt"
	"maps"
	"regexp"
	"slices"

	jsonpatch "github.com/evanphx/json-patch/v5"
	"sigs.k8s.io/yaml"

	"github.com/nodeimg/nodeimg/internal/strictyaml"
)

// The kinds of documents of a kubeadm configuration.
const (
	kindJoin = "JoinConfiguration"
	kindInit = "InitConfiguration"
	// KindKubelet is that of the kubelets. One for all nodes is among what the first control plane is made of; a group's is for its nodes.
	KindKubelet = "KubeletConfiguration"
)

// allKinds are those of which the first control plane is made.
var allKinds = []string{"ClusterConfiguration", kindInit, kindJoin, KindKubelet, "KubeProxyConfiguration"}

// joiningKinds are those of which every other node is made: it joins, and has a kubelet.
var joiningKinds = []string{kindJoin, KindKubelet}

// joiningPatches are the patches of a group that its nodes beside the first control plane have.
func joiningPatches(g Group) (merges []string, operations []PatchJSON6902) {
	forFirst := func(kind string) bool { return slices.Contains(allKinds, kind) && !slices.Contains(joiningKinds, kind) }
	merges = slices.DeleteFunc(slices.Clone(g.KubeadmPatches), func(text string) bool {
		var patch struct{ Kind string }
		return yaml.Unmarshal([]byte(text), &patch) == nil && forFirst(patch.Kind)
	})
	operations = slices.DeleteFunc(slices.Clone(g.KubeadmPatchesJSON6902), func(p PatchJSON6902) bool { return forFirst(p.Kind) })
	return merges, operations
}

// patches checks patches for documents of the kinds.
func (k *checker) patches(path string, kinds, merges []string, operations []PatchJSON6902) {
	for i, text := range merges {
		field := fmt.Sprintf("%s.kubeadmPatches[%d]", path, i)
		var patch map[string]any
		if err := yaml.UnmarshalStrict([]byte(text), &patch); err != nil {
			k.report.Add(field, "found text that is no YAML mapping: %v", err)
			continue
		}
		kind, _ := patch["kind"].(string)
		if kind == "" {
			k.report.Add(field, "found a patch without kind, expected kind: %s", strictyaml.OneOf(kinds))
			continue
		}
		k.patched(field, kind, kinds)
	}
	for i, p := range operations {
		field := fmt.Sprintf("%s.kubeadmPatchesJSON6902[%d]", path, i)
		if slices.Contains(allKinds, p.Kind) {
			k.patched(field+".kind", p.Kind, kinds)
		}
		if _, err := p.Operations(); err != nil {
			k.report.Add(field+".patch", "found text that is no list of operations (RFC 6902): %v", err)
		}
	}
}

// patched checks the kind of the document that a patch is for.
func (k *checker) patched(field, kind string, kinds []string) {
	switch {
	case slices.Contains(kinds, kind):
	case slices.Contains(allKinds, kind):
		k.report.Add(field, "found a patch of %s, which only the first control plane is made of; expected %s here, or the patch in spec", kind, strictyaml.OneOf(kinds))
	default:
		k.report.Add(field, "found a patch of %s, expected %s%s", strictyaml.Quote(kind), strictyaml.OneOf(kinds), strictyaml.DidYouMean(kind, kinds))
	}
}

// Operations reads the patch.
func (p PatchJSON6902) Operations() (jsonpatch.Patch, error) {
	text, err := yaml.YAMLToJSONStrict([]byte(p.Patch))
	if err != nil {
		return nil, err
	}
	patch, err := jsonpatch.DecodePatch(text)
	if err != nil {
		return nil, err
	}
	for _, operation := range patch {
		if !slices.Contains([]string{"add", "remove", "replace", "move", "copy", "test"}, operation.Kind()) {
			return nil, fmt.Errorf("the operation %q is none of add, remove, replace, move, copy and test", operation.Kind())
		}
		if _, err := operation.Path(); err != nil {
			return nil, err
		}
	}
	return patch, nil
}

// gate is the form of feature gates' names, apiGroup of what kube-apiserver --runtime-config takes.
var (
	gate     = regexp.MustCompile(`^[A-Za-z][A-Za-z0-9]*$`)
	apiGroup = regexp.MustCompile(`^[a-z0-9][a-z0-9./-]*$`)
)

// components checks what goes to Kubernetes' own programs.
func (k *checker) components() {
	for _, name := range slices.Sorted(maps.Keys(k.FeatureGates)) {
		if !gate.MatchString(name) {
			k.report.Add("spec.featureGates["+name+"]", "found %s, expected a feature gate of Kubernetes, such as InPlacePodVerticalScaling", strictyaml.Quote(name))
		}
	}
	for _, name := range slices.Sorted(maps.Keys(k.RuntimeConfig)) {
		field := "spec.runtimeConfig[" + name + "]"
		if !apiGroup.MatchString(name) {
			k.report.Add(field, "found %s, expected a group of the API such as api/alpha or batch/v1", strictyaml.Quote(name))
		} else if value := k.RuntimeConfig[name]; value != "true" && value != "false" {
			k.report.Add(field, "found %s, expected \"true\" or \"false\"", strictyaml.Quote(value))
		}
	}
}
