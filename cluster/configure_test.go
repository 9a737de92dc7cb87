package cluster

import (
	"errors"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/rogpeppe/go-internal/txtar"

	"github.com/nodeimg/nodeimg/cluster/config"
	"github.com/nodeimg/nodeimg/recipes"
)

var update = flag.Bool("update", false, "write what the tests found into their golden files")

// TestConfigure makes configurations of the archives in testdata/configure: what the entrypoint of an image wrote, under a description of
// a cluster, is what the file "want" says. The first control plane is made of an InitConfiguration, a worker of a JoinConfiguration.
func TestConfigure(t *testing.T) {
	files, err := filepath.Glob("testdata/configure/*.txtar")
	if err != nil || len(files) == 0 {
		t.Fatalf("found no archives: %v", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txtar"), func(t *testing.T) {
			archive, err := txtar.ParseFile(file)
			if err != nil {
				t.Fatal(err)
			}
			parts := map[string]string{}
			for _, f := range archive.Files {
				parts[f.Name] = string(f.Data)
			}
			document, err := config.Load("-", strings.NewReader(parts["cluster.yaml"]))
			if err != nil {
				t.Fatal(err)
			}
			spec := document.Value.Spec
			node := spec.Members()[0]
			if strings.Contains(parts["kubeadm.yaml"], "JoinConfiguration") {
				node = spec.Members()[len(spec.Members())-1]
			}
			got, err := description{spec: spec, node: node}.configure(parts["kubeadm.yaml"])
			if err != nil {
				if !errors.As(err, new(*recipes.InputError)) {
					t.Errorf("%v is not an *InputError", err)
				}
				got = "error: " + err.Error() + "\n"
			}
			last := &archive.Files[len(archive.Files)-1]
			if *update {
				last.Data = []byte(got)
				if err := os.WriteFile(file, txtar.Format(archive), 0o644); err != nil {
					t.Fatal(err)
				}
				return
			}
			if diff := cmp.Diff(parts["want"], got); diff != "" {
				t.Errorf("configurations differ (-want +got):\n%s", diff)
			}
		})
	}
}
