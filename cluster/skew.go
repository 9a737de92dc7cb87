package cluster

import (
	"github.com/Masterminds/semver/v3"

	"github.com/nodeimg/nodeimg/recipes"
)

// oldestKubelet is how many minor releases a kubelet may be older than the API server
// (https://kubernetes.io/releases/version-skew-policy/#kubelet, since Kubernetes 1.28).
const oldestKubelet = 3

// configRelease is the minor release since which kubeadm describes a cluster in v1beta4, which no older kubeadm that joins it can read
// (changelog of Kubernetes 1.31).
const configRelease = 31

// checkSkew says why a worker cannot join: the versions are those of the control plane and of the worker's image, as in their labels. The
// error is a *recipes.InputError.
func checkSkew(image, controlPlane, worker string) error {
	server, err := semver.NewVersion(controlPlane)
	if err != nil {
		return recipes.InputErrorf("found %q as the Kubernetes version of the control plane, expected one like v1.34.10", controlPlane)
	}
	kubelet, err := semver.NewVersion(worker)
	if err != nil {
		return recipes.InputErrorf("%s: found %q as its Kubernetes version, expected one like v1.34.10", image, worker)
	}
	refused := func(reason string) error {
		return recipes.InputErrorf("%s has Kubernetes %s, which cannot join a control plane of %s: %s", image, worker, controlPlane, reason)
	}
	switch {
	case server.Major() != kubelet.Major() || kubelet.Minor() > server.Minor():
		return refused("a kubelet must not be newer than the API server")
	case kubelet.Minor()+oldestKubelet < server.Minor():
		return refused("a kubelet may be at most three minor releases older than the API server")
	case server.Minor() >= configRelease && kubelet.Minor() < configRelease:
		return refused("only kubeadm v1.31 and newer can read the configuration of this cluster")
	}
	return nil
}
