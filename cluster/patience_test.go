package cluster

import (
	"strings"
	"testing"
	"time"
)

// TestPatient gives kubeadm nodeimg's own limit, in either version's terms, unless somebody has said otherwise.
func TestPatient(t *testing.T) {
	const versioned = "apiVersion: kubeadm.k8s.io/"
	for name, test := range map[string]struct {
		config        string
		want, wantNot []string
	}{
		"v1beta4": {
			versioned + "v1beta4\nkind: InitConfiguration\ntimeouts: {etcdAPICall: 1s}\n---\n" + versioned + "v1beta4\nkind: ClusterConfiguration\n",
			[]string{"kubeletHealthCheck: 7m0s", "controlPlaneComponentHealthCheck: 7m0s", "etcdAPICall: 1s"}, []string{"etcdAPICall: 7m0s", "timeoutForControlPlane"},
		},
		"joining": {versioned + "v1beta4\nkind: JoinConfiguration\n", []string{"tlsBootstrap: 7m0s", "kubernetesAPICall: 7m0s"}, nil},
		"v1beta3": {
			versioned + "v1beta3\nkind: InitConfiguration\n---\n" + versioned + "v1beta3\nkind: ClusterConfiguration\napiServer: {certSANs: [a]}\n---\n" +
				versioned + "v1beta3\nkind: JoinConfiguration\ndiscovery: {tlsBootstrapToken: abc}\n",
			[]string{"timeoutForControlPlane: 7m0s", "timeout: 7m0s", "- a", "tlsBootstrapToken: abc"}, []string{"timeouts"},
		},
		"others": {"apiVersion: kubelet.config.k8s.io/v1beta1\nkind: KubeletConfiguration\n", nil, []string{"7m0s"}},
	} {
		got, err := patient(test.config, 7*time.Minute)
		if err != nil {
			t.Errorf("%s: %v", name, err)
		}
		for _, want := range test.want {
			if !strings.Contains(got, want) {
				t.Errorf("%s: no %q in\n%s", name, want, got)
			}
		}
		for _, not := range test.wantNot {
			if strings.Contains(got, not) {
				t.Errorf("%s: %q in\n%s", name, not, got)
			}
		}
	}
}
