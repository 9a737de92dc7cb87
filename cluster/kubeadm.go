package cluster

import (
	"bufio"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"strings"

	utilyaml "k8s.io/apimachinery/pkg/util/yaml"
	"sigs.k8s.io/yaml"
)

// Files in a node.
const (
	// shippedConfig is the kubeadm configuration that the node's entrypoint writes (dockerfiles, kubeadm.yaml.tmpl).
	shippedConfig = "/etc/nodeimg/kubeadm.yaml"
	// podNetworkManifest is the pod network of the image; it is not there with cni.name bridge or none.
	podNetworkManifest = "/usr/share/nodeimg/manifests/cni.yaml"
	// storageManifest is the default StorageClass of the image; it is not there with storage.name none.
	storageManifest = "/usr/share/nodeimg/manifests/storage.yaml"
	adminConfig     = "/etc/kubernetes/admin.conf"
	// initConfigPath, joinConfigPath and discoveryPath hold the token and lie in memory.
	initConfigPath = "/run/nodeimg/kubeadm-init.yaml"
	joinConfigPath = "/run/nodeimg/kubeadm-join.yaml"
	discoveryPath  = "/run/nodeimg/discovery.conf"
)

// newToken makes a bootstrap token (https://kubernetes.io/docs/reference/access-authn-authz/bootstrap-tokens/, "Token format").
func newToken() string {
	text := strings.ToLower(rand.Text())
	return text[:6] + "." + text[6:22]
}

// document is one document of a kubeadm configuration, as JSON decodes it.
type document = map[string]any

// documents reads a kubeadm configuration by the documents' kinds, in their order.
func documents(config string) ([]document, error) {
	var list []document
	reader := utilyaml.NewYAMLReader(bufio.NewReader(strings.NewReader(config)))
	for {
		text, err := reader.Read()
		if errors.Is(err, io.EOF) {
			return list, nil
		}
		var d document
		if err == nil {
			err = yaml.Unmarshal(text, &d)
		}
		if err != nil {
			return nil, fmt.Errorf("reading %s: %w", shippedConfig, err)
		}
		if len(d) > 0 {
			list = append(list, d)
		}
	}
}

func find(list []document, kind string) (document, error) {
	for _, d := range list {
		if d["kind"] == kind {
			return d, nil
		}
	}
	return nil, fmt.Errorf("reading %s: it has no %s; was the image built by nodeimg?", shippedConfig, kind)
}

func encode(list ...document) (string, error) {
	var parts []string
	for _, d := range list {
		text, err := yaml.Marshal(d)
		if err != nil {
			return "", fmt.Errorf("encoding the kubeadm configuration: %w", err)
		}
		parts = append(parts, string(text))
	}
	return strings.Join(parts, "---\n"), nil
}

// initConfig is the shipped configuration with a token to join with, and without the taint that keeps pods off a control plane when there
// is no other node for them.
func initConfig(shipped, token string, alone bool) (string, error) {
	list, err := documents(shipped)
	if err != nil {
		return "", err
	}
	initial, err := find(list, "InitConfiguration")
	if err != nil {
		return "", err
	}
	initial["bootstrapTokens"] = []any{document{"token": token, "ttl": "1h0m0s", "description": "made by nodeimg for the nodes of its own cluster"}}
	if alone {
		takeAll(initial)
	}
	return encode(list...)
}

// takeAll leaves out the taint that keeps ordinary pods off a control plane.
func takeAll(initial document) {
	registration, ok := initial["nodeRegistration"].(document)
	if !ok {
		registration = document{}
		initial["nodeRegistration"] = registration
	}
	registration["taints"] = []any{}
}

// joinConfig makes the configuration with which a node joins, of the configuration that it would begin a cluster with itself: its address,
// its runtime, the checks to ignore.
func joinConfig(shipped, token string, as joining) (string, error) {
	list, err := documents(shipped)
	if err != nil {
		return "", err
	}
	initial, err := find(list, "InitConfiguration")
	if err != nil {
		return "", err
	}
	if as.role == RoleControlPlane && as.alone {
		takeAll(initial)
	}
	join := document{
		"apiVersion":       initial["apiVersion"],
		"kind":             "JoinConfiguration",
		"nodeRegistration": initial["nodeRegistration"],
		// A file needs no wait until the cluster has published its own description.
		"discovery": document{"file": document{"kubeConfigPath": discoveryPath}, "tlsBootstrapToken": token},
	}
	if patches, ok := initial["patches"]; ok {
		join["patches"] = patches
	}
	if as.role == RoleControlPlane {
		join["controlPlane"] = document{"localAPIEndpoint": initial["localAPIEndpoint"]}
	}
	return encode(join)
}
