package cluster

import (
	"testing"

	"github.com/nodeimg/nodeimg/internal/dockerengine"
)

// TestComplete looks at what may be left of a cluster.
func TestComplete(t *testing.T) {
	labels := func(more ...string) map[string]string {
		found := map[string]string{LabelCluster: "a"}
		for i := 0; i < len(more); i += 2 {
			found[more[i]] = more[i+1]
		}
		return found
	}
	claim := dockerengine.Labelled{ID: claimName("a"), Labels: labels(LabelOwner, "me")}
	mark := dockerengine.Labelled{ID: markName("a"), Labels: labels()}
	node := func(state string) dockerengine.Container {
		return dockerengine.Container{Name: "a-control-plane-1", State: state, Labels: labels(LabelRole, string(RoleControlPlane))}
	}
	for name, test := range map[string]struct {
		containers []dockerengine.Container
		volumes    []dockerengine.Labelled
		complete   bool
	}{
		"made":                              {[]dockerengine.Container{node("running")}, []dockerengine.Labelled{claim, mark}, true},
		"killed while it boots":             {[]dockerengine.Container{node("running")}, []dockerengine.Labelled{claim}, false},
		"killed before anything else":       {nil, []dockerengine.Labelled{claim}, false},
		"pruned while it runs":              {[]dockerengine.Container{node("running")}, nil, true},
		"pruned while it is stopped":        {[]dockerengine.Container{node("created"), node("exited")}, nil, true},
		"pruned while it was made":          {[]dockerengine.Container{node("running")}, []dockerengine.Labelled{mark}, true},
		"made by the Engine after its down": {[]dockerengine.Container{node("created")}, nil, false},
	} {
		networks := []dockerengine.Labelled{{ID: "1", Labels: labels()}}
		found := sortOut(test.containers, networks, test.volumes)
		if len(found) != 1 || found[0].Name != "a" || len(found[0].Nodes) != len(test.containers) {
			t.Fatalf("%s: found %+v", name, found)
		}
		if found[0].Complete != test.complete {
			t.Errorf("%s: complete is %t, want %t", name, found[0].Complete, test.complete)
		}
	}
}
