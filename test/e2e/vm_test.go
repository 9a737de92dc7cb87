package e2e

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/nodeimg/nodeimg/test/internal/vm"
)

// vmLimit bounds the emulated machine's whole life on a machine that is busy.
const vmLimit = 80 * time.Minute

// TestVMSourceImage builds the shipped recipe that needs no registry and makes a Ready node of the image on what users have: cgroup v2
// under systemd, with the distribution's own Docker Engine.
func TestVMSourceImage(t *testing.T) {
	ctx, cancel := context.WithTimeoutCause(t.Context(), vmLimit, errors.New("the emulated machine took longer than "+vmLimit.String()))
	defer cancel()
	script, err := os.ReadFile("testdata/vm.sh")
	if err != nil {
		t.Fatal(err)
	}
	const reference = "nodeimg-e2e/source:vm"
	archive := filepath.Join(t.TempDir(), "node.tar")
	nodeimg(ctx, t, nil, "build", filepath.Join(root(t), "recipes", "k8s-node-source.yaml"), "-o", "type=docker,dest="+archive, "-t", reference)
	if _, err := vm.Run(ctx, vm.Options{
		Script: script,
		Files:  map[string][]byte{"reference": []byte(reference + "\n")},
		Disks:  map[string]string{"image": archive},
		Output: t.Output(),
	}); err != nil {
		t.Fatal(err)
	}
}
