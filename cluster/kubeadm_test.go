package cluster

import (
	"regexp"
	"strings"
	"testing"
)

const shipped = `# as the entrypoint writes it
apiVersion: kubeadm.k8s.io/v1beta4
kind: InitConfiguration
localAPIEndpoint: {advertiseAddress: 10.1.2.3}
nodeRegistration:
  criSocket: unix:///run/crio/crio.sock
  ignorePreflightErrors: [Mem, Swap]
  kubeletExtraArgs: [{name: node-ip, value: 10.1.2.3}]
---
apiVersion: kubeadm.k8s.io/v1beta4
kind: ClusterConfiguration
kubernetesVersion: v1.34.10
`

func TestConfigs(t *testing.T) {
	token := newToken()
	if !regexp.MustCompile(`^[a-z0-9]{6}\.[a-z0-9]{16}$`).MatchString(token) || token == newToken() {
		t.Errorf("token %q", token)
	}
	for _, alone := range []bool{true, false} {
		got, err := initConfig(shipped, token, alone)
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(got, "taints: []") != alone || !strings.Contains(got, token) || !strings.Contains(got, "kubernetesVersion: v1.34.10") ||
			!strings.Contains(got, "criSocket: unix:///run/crio/crio.sock") {
			t.Errorf("alone %v:\n%s", alone, got)
		}
	}
	got, err := joinConfig(shipped, token, joining{role: RoleWorker})
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"kind: JoinConfiguration", "apiVersion: kubeadm.k8s.io/v1beta4", "value: 10.1.2.3", "criSocket: unix:///run/crio/crio.sock", token, discoveryPath} {
		if !strings.Contains(got, want) {
			t.Errorf("no %q in\n%s", want, got)
		}
	}
	if strings.Contains(got, "localAPIEndpoint") || strings.Contains(got, "ClusterConfiguration") {
		t.Errorf("a worker's configuration has a control plane's fields:\n%s", got)
	}
	if _, err := joinConfig("kind: Other\n", token, joining{}); err == nil || !strings.Contains(err.Error(), "InitConfiguration") {
		t.Errorf("a configuration without InitConfiguration: %v", err)
	}
}

func TestCheckName(t *testing.T) {
	for name, good := range map[string]bool{"a": true, "a-1": true, "": false, "A": false, "-a": false, "a-": false, "a_b": false, strings.Repeat("a", 41): false} {
		if err := CheckName(name); (err == nil) != good {
			t.Errorf("%q: %v", name, err)
		}
	}
}
