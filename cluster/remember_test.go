package cluster

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/nodeimg/nodeimg/cluster/config"
	"github.com/nodeimg/nodeimg/internal/dockerengine"
)

// TestRemembered holds that control planes keep the whole description for workers to come, and that no label has any of the secrets in it.
func TestRemembered(t *testing.T) {
	const secret = "s3cret"
	patches := []string{"kind: ClusterConfiguration\napiServer: {extraEnvs: [{name: TOKEN, value: " + secret + "}]}\n"}
	operations := []config.PatchJSON6902{{Kind: "JoinConfiguration", Patch: `[{"op": "add", "path": "/discovery/tlsBootstrapToken", "value": "` + secret + `"}]`}}
	spec := config.Spec{
		Image: "node", Env: map[string]string{"A": secret}, KubeadmPatches: patches, KubeadmPatchesJSON6902: operations,
		ControlPlanes: config.Groups{{Count: 2, KubeadmPatches: patches}},
		Workers: config.Groups{
			{Count: 1, Labels: map[string]string{"pool": "plain"}},
			{Count: 1, Env: map[string]string{"B": secret}, KubeadmPatches: patches, KubeadmPatchesJSON6902: operations},
		},
	}
	m := &maker{Options: Options{Config: config.Cluster{Metadata: config.Metadata{Name: "one"}, Spec: spec}}}
	containers, err := m.containers(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range containers {
		for name, value := range c.Labels {
			if strings.Contains(value, secret) {
				t.Errorf("the label %s of %s has a secret: %s", name, c.Name, value)
			}
		}
		kept := slices.IndexFunc(c.Files, func(f dockerengine.File) bool { return f.Path == keptDescription })
		if controlPlane := c.Labels[LabelRole] == string(RoleControlPlane); controlPlane != (kept >= 0) {
			t.Errorf("%s keeps %v", c.Name, c.Files)
		}
		if kept < 0 {
			continue
		}
		if c.Files[kept].Mode != 0o600 {
			t.Errorf("others than root can read what %s keeps: %v", c.Name, c.Files[kept].Mode)
		}
		var got config.Spec
		if err := json.Unmarshal(c.Files[kept].Content, &got); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(spec, got); diff != "" {
			t.Errorf("what %s keeps differs (-want +got):\n%s", c.Name, diff)
		}
	}
}
