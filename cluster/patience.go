package cluster

import (
	"strings"
	"time"
)

// limits are those of kubeadm v1beta4 in what begins a cluster and what joins one
// (https://kubernetes.io/docs/reference/config-api/kubeadm-config.v1beta4/#kubeadm-k8s-io-v1beta4-Timeouts).
var limits = []string{"controlPlaneComponentHealthCheck", "kubeletHealthCheck", "kubernetesAPICall", "etcdAPICall", "tlsBootstrap", "discovery"}

// patient makes a kubeadm configuration give everything as much time as nodeimg itself, where it says nothing about that: kubeadm's own
// limits are too short for slow machines and too long for somebody who will not wait.
func patient(config string, wait time.Duration) (string, error) {
	list, err := documents(config)
	if err != nil {
		return "", err
	}
	setDefault := func(in document, field string) {
		if _, given := in[field]; !given {
			in[field] = wait.String()
		}
	}
	for _, doc := range list {
		version, _ := doc["apiVersion"].(string)
		kind, _ := doc["kind"].(string)
		if strings.HasSuffix(version, "/v1beta3") {
			switch kind {
			case "ClusterConfiguration":
				setDefault(section(doc, "apiServer"), "timeoutForControlPlane")
			case "JoinConfiguration":
				setDefault(section(doc, "discovery"), "timeout")
			}
			continue
		}
		if kind == "InitConfiguration" || kind == "JoinConfiguration" {
			for _, limit := range limits {
				setDefault(section(doc, "timeouts"), limit)
			}
		}
	}
	return encode(list...)
}
