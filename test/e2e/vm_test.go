package e2e

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/nodeimg/nodeimg/test/internal/command"
	"github.com/nodeimg/nodeimg/test/internal/engine"
	"github.com/nodeimg/nodeimg/test/internal/vm"
)

// vmLimit bounds the emulated machine's whole life on a machine that is busy.
const vmLimit = 80 * time.Minute

// TestVMSourceImage builds the shipped recipe that needs no registry and makes a cluster of the image on what users have: cgroup v2 under
// systemd, with the distribution's own Docker Engine.
func TestVMSourceImage(t *testing.T) {
	ctx, cancel := context.WithTimeoutCause(t.Context(), vmLimit, errors.New("the emulated machine took longer than "+vmLimit.String()))
	defer cancel()
	script, err := os.ReadFile("testdata/vm.sh")
	if err != nil {
		t.Fatal(err)
	}
	program, err := os.ReadFile(filepath.Join(programs, "nodeimg"))
	if err != nil {
		t.Fatal(err)
	}
	const reference = "nodeimg-e2e/source:vm"
	images := filepath.Join(t.TempDir(), "docker.ext4")
	prepareImages(ctx, t, reference, images)
	if _, err := vm.Run(ctx, vm.Options{
		Script:  script,
		Files:   map[string][]byte{"reference": []byte(reference + "\n"), "nodeimg": program},
		Scratch: map[string]string{"docker": images},
		Output:  t.Output(),
	}); err != nil {
		t.Fatal(err)
	}
}

// prepareImages builds the image and puts it into an Engine on this host, whose data become a disk image: loading it in the emulated
// machine would take longer than everything else there.
func prepareImages(ctx context.Context, t *testing.T, reference, disk string) {
	t.Helper()
	running, err := engine.Start(ctx, engine.Options{})
	if err != nil {
		t.Fatal(err)
	}
	nodeimg(ctx, t, []string{"DOCKER_HOST=" + running.Host()}, "build", filepath.Join(command.Root(t), "recipes", "k8s-node-source.yaml"), "-o", "type=docker", "-t", reference)
	err = vm.PackDisk(ctx, running.DataRoot(), disk)
	if stopErr := running.Stop(); err != nil || stopErr != nil {
		t.Fatal(errors.Join(err, stopErr))
	}
}
