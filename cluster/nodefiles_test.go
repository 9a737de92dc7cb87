package cluster

import (
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/nodeimg/nodeimg/recipes"
)

// TestMirrorFiles holds what each runtime is told: mirrors in their order, and a mirror's path before the names of repositories.
func TestMirrorFiles(t *testing.T) {
	mirrors := map[string][]string{"docker.io": {"https://z.example/hub/", "http://10.0.0.1:5000"}, "registry.k8s.io": {"https://a.example"}}
	const hub = `[host."https://z.example/v2/hub"]
  capabilities = ["pull", "resolve"]
  override_path = true
[host."http://10.0.0.1:5000/v2"]
  capabilities = ["pull", "resolve"]
  override_path = true
`
	const k8s = `[host."https://a.example/v2"]
  capabilities = ["pull", "resolve"]
  override_path = true
`
	for cri, want := range map[recipes.CRIName]map[string]string{
		recipes.CRIContainerd: {"/etc/containerd/certs.d/docker.io/hosts.toml": hub, "/etc/containerd/certs.d/registry.k8s.io/hosts.toml": k8s},
		recipes.CRIDocker:     {"/etc/docker/certs.d/docker.io/hosts.toml": hub, "/etc/docker/certs.d/registry.k8s.io/hosts.toml": k8s},
		recipes.CRICRIO: {"/etc/containers/registries.conf.d/50-nodeimg.conf": `[[registry]]
location = 'docker.io'

[[registry.mirror]]
location = 'z.example/hub'

[[registry.mirror]]
location = '10.0.0.1:5000'
insecure = true

[[registry]]
location = 'registry.k8s.io'

[[registry.mirror]]
location = 'a.example'
`},
	} {
		files, err := mirrorFiles(cri, "28.0.4", mirrors)
		if err != nil {
			t.Fatal(err)
		}
		got := map[string]string{}
		for _, f := range files {
			got[f.Path] = string(f.Content)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", cri, diff)
		}
	}
	if _, err := mirrorFiles(recipes.CRIDocker, "27.5.1", mirrors); !errors.As(err, new(*recipes.InputError)) {
		t.Errorf("an older Docker Engine: %v", err)
	}
}

// TestWithPodSubnet changes flannel's configuration and nothing else.
func TestWithPodSubnet(t *testing.T) {
	const manifest = "kind: ConfigMap\ndata:\n  net-conf.json: '{\"Network\": \"10.244.0.0/16\", \"Backend\": {\"Type\": \"vxlan\"}}'\n---\nkind: DaemonSet\n"
	for subnets, want := range map[string]string{
		"":                           "10.244.0.0/16",
		"10.1.0.0/16":                `{"Backend":{"Type":"vxlan"},"EnableIPv4":true,"Network":"10.1.0.0/16"}`,
		"fd00:10:1::/56":             `{"Backend":{"Type":"vxlan"},"EnableIPv4":false,"EnableIPv6":true,"IPv6Network":"fd00:10:1::/56"}`,
		"10.1.0.0/16,fd00:10:1::/56": `{"Backend":{"Type":"vxlan"},"EnableIPv4":true,"EnableIPv6":true,"IPv6Network":"fd00:10:1::/56","Network":"10.1.0.0/16"}`,
	} {
		got, err := withPodSubnet(manifest, subnets)
		if err != nil || !strings.Contains(got, want) || !strings.Contains(got, "kind: DaemonSet") {
			t.Errorf("%q: %v, want %s in\n%s", subnets, err, want, got)
		}
	}
	if _, err := withPodSubnet("kind: DaemonSet\n", "10.1.0.0/16"); err == nil {
		t.Error("a manifest of another pod network was not refused")
	}
}
