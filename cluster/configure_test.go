package cluster

import (
	"errors"
	"strings"
	"testing"

	"github.com/nodeimg/nodeimg/cluster/config"
	"github.com/nodeimg/nodeimg/internal/golden"
	"github.com/nodeimg/nodeimg/recipes"
)

// TestConfigure makes configurations of the archives in testdata/configure: what the entrypoint of an image wrote, under a description of
// a cluster, is what the file "want" says. The first control plane is made of an InitConfiguration, a worker of a JoinConfiguration.
func TestConfigure(t *testing.T) {
	golden.Run(t, "testdata/configure/*.txtar", "want", func(t *testing.T, archive golden.Archive) string {
		document, err := config.Load("-", strings.NewReader(archive.File("cluster.yaml")))
		if err != nil {
			t.Fatal(err)
		}
		document.Value.Default()
		spec := document.Value.Spec
		node := spec.Members()[0]
		if strings.Contains(archive.File("kubeadm.yaml"), "JoinConfiguration") {
			node = spec.Members()[len(spec.Members())-1]
		}
		got, err := description{spec: spec, node: node}.configure(archive.File("kubeadm.yaml"))
		if err != nil {
			if !errors.As(err, new(*recipes.InputError)) {
				t.Errorf("%v is not an *InputError", err)
			}
			return "error: " + err.Error() + "\n"
		}
		return got
	})
}
