package cluster

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"github.com/nodeimg/nodeimg/cluster/config"
	"github.com/nodeimg/nodeimg/internal/progress"
	"github.com/nodeimg/nodeimg/recipes"
)

// description is what a node was described as.
type description struct {
	spec config.Spec
	node config.Member
}

// configure makes a configuration of kubeadm what the description says, with its patches last. It does not depend on the version of the
// documents, which is that of the node's image. The error is a *recipes.InputError when a patch does not fit.
func (d description) configure(text string) (string, error) {
	list, err := documents(text)
	if err != nil {
		return "", err
	}
	for _, doc := range list {
		switch doc["kind"] {
		case "ClusterConfiguration":
			d.cluster(doc)
		case "InitConfiguration", "JoinConfiguration":
			d.registration(doc)
		case "KubeletConfiguration":
			gates(doc, d.spec.FeatureGates)
		case "KubeProxyConfiguration":
			gates(doc, d.spec.FeatureGates)
			set(doc, "mode", d.spec.Networking.KubeProxyMode)
		}
	}
	merges, operations, _, err := d.split()
	if err != nil {
		return "", err
	}
	if list, err = patched(list, merges, operations); err != nil {
		return "", err
	}
	if err := apart(list); err != nil {
		return "", err
	}
	return encode(list...)
}

// apart refuses subnets of pods and services that overlap: only here it is known what the image and patches say of them.
func apart(list []document) error {
	for _, doc := range list {
		network, _ := doc["networking"].(document)
		pods, _ := network["podSubnet"].(string)
		services, _ := network["serviceSubnet"].(string)
		if pod, service, found := config.Overlap(pods, cmp.Or(services, config.DefaultServiceSubnet)); found {
			return recipes.InputErrorf("the podSubnet %s of the kubeadm configuration overlaps with its serviceSubnet %s; choose another one of them", pod, service)
		}
	}
	return nil
}

// cluster is about what all nodes have in common.
func (d description) cluster(doc document) {
	network := section(doc, "networking")
	set(network, "podSubnet", d.spec.Networking.PodSubnet)
	set(network, "serviceSubnet", d.spec.Networking.ServiceSubnet)
	set(network, "dnsDomain", d.spec.Networking.DNSDomain)
	pairs := gatePairs(d.spec.FeatureGates)
	for _, component := range []string{"apiServer", "controllerManager", "scheduler"} {
		addArgument(doc, component, "extraArgs", "feature-gates", pairs)
	}
	var groups []string
	for _, name := range slices.Sorted(maps.Keys(d.spec.RuntimeConfig)) {
		groups = append(groups, name+"="+d.spec.RuntimeConfig[name])
	}
	addArgument(doc, "apiServer", "extraArgs", "runtime-config", groups)
	if address, err := netip.ParseAddr(d.spec.Networking.APIAddress); err == nil {
		server := section(doc, "apiServer")
		names, _ := server["certSANs"].([]any)
		if name := reached(address).String(); !slices.Contains(names, any(name)) {
			server["certSANs"] = append(names, name)
		}
	}
}

// registration is about the Kubernetes node.
func (d description) registration(doc document) {
	var labels []string
	for _, name := range slices.Sorted(maps.Keys(d.node.Labels)) {
		if !reserved(name) {
			labels = append(labels, name+"="+d.node.Labels[name])
		}
	}
	addArgument(doc, "nodeRegistration", "kubeletExtraArgs", "node-labels", labels)
	if len(d.node.Taints) == 0 {
		return
	}
	registration := section(doc, "nodeRegistration")
	taints, given := registration["taints"].([]any)
	if !given && d.node.Role == RoleControlPlane {
		// A list takes the place of kubeadm's own.
		taints = []any{document{"key": controlPlaneTaint, "effect": "NoSchedule"}}
	}
	for _, t := range d.node.Taints {
		// The API server refuses nodes with two of a key and effect.
		taints = slices.DeleteFunc(taints, func(other any) bool {
			old, _ := other.(document)
			return old["key"] == t.Key && old["effect"] == t.Effect
		})
		taint := document{"key": t.Key, "effect": t.Effect}
		set(taint, "value", t.Value)
		taints = append(taints, taint)
	}
	registration["taints"] = taints
}

// reserved says that a kubelet may not give its node the label, as NodeRestriction has it
// (https://kubernetes.io/docs/reference/access-authn-authz/admission-controllers/#noderestriction); the administrator may.
func reserved(label string) bool {
	domain, _, named := strings.Cut(label, "/")
	if !named {
		return false
	}
	within := func(suffix string) bool { return domain == suffix || strings.HasSuffix(domain, "."+suffix) }
	if within("kubelet.kubernetes.io") || within("node.kubernetes.io") {
		return false
	}
	return within("kubernetes.io") || within("k8s.io")
}

// reservedLabels are those of the node that only the administrator may set, as kubectl label takes them.
func (d description) reservedLabels() []string {
	var labels []string
	for _, name := range slices.Sorted(maps.Keys(d.node.Labels)) {
		if reserved(name) {
			labels = append(labels, name+"="+d.node.Labels[name])
		}
	}
	return labels
}

// labelNodes gives nodes the labels that their kubelets may not set. The control plane n knows all of them.
func (n *member) labelNodes(ctx context.Context, nodes []*member) error {
	for _, node := range nodes {
		labels := node.described.reservedLabels()
		if len(labels) == 0 {
			continue
		}
		step := progress.Start(ctx, "[%s] labels", node.name)
		// A kubelet makes its node only after kubeadm has ended.
		err := step.Done(until(ctx, n.wait, func(ctx context.Context) error {
			_, err := n.exec(ctx, append([]string{"kubectl", "--kubeconfig", adminConfig, "label", "node", "--overwrite", node.name}, labels...)...)
			return err
		}))
		if err != nil {
			return fmt.Errorf("labelling the node %s: %w", node.name, err)
		}
	}
	return nil
}

func gatePairs(wanted map[string]bool) []string {
	var pairs []string
	for _, name := range slices.Sorted(maps.Keys(wanted)) {
		pairs = append(pairs, fmt.Sprintf("%s=%t", name, wanted[name]))
	}
	return pairs
}

// gates adds feature gates to a document that has a mapping of them.
func gates(doc document, wanted map[string]bool) {
	if len(wanted) == 0 {
		return
	}
	section := section(doc, "featureGates")
	for name, on := range wanted {
		section[name] = on
	}
}

// set sets a field unless the value is empty.
func set(doc document, field, value string) {
	if value != "" {
		doc[field] = value
	}
}

// section is a mapping in a document, made when it is not there.
func section(doc document, name string) document {
	inner, ok := doc[name].(document)
	if !ok {
		inner = document{}
		doc[name] = inner
	}
	return inner
}

// addArgument adds pairs to the comma-separated value of a program's argument, in the form of the document's version: a mapping until
// v1beta3, a list of names and values since (https://kubernetes.io/docs/reference/config-api/kubeadm-config.v1beta4/).
func addArgument(doc document, component, field, name string, pairs []string) {
	if len(pairs) == 0 {
		return
	}
	value := strings.Join(pairs, ",")
	in := section(doc, component)
	arguments, mapping := in[field].(document)
	if mapping || in[field] == nil && oldArguments(doc) {
		if arguments == nil {
			arguments = document{}
			in[field] = arguments
		}
		if old, _ := arguments[name].(string); old != "" {
			value = old + "," + value
		}
		arguments[name] = value
		return
	}
	list, _ := in[field].([]any)
	for _, entry := range list {
		if argument, ok := entry.(document); ok && argument["name"] == name {
			argument["value"] = fmt.Sprintf("%s,%s", argument["value"], value)
			return
		}
	}
	in[field] = append(list, document{"name": name, "value": value})
}

// oldArguments says that the document has mappings of arguments.
func oldArguments(doc document) bool {
	version, _ := doc["apiVersion"].(string)
	_, version, _ = strings.Cut(version, "/")
	return cmp.Or(version, "v1beta4") < "v1beta4"
}
