package runtimes

import (
	"bytes"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/nodeimg/nodeimg/internal/cache"
	"github.com/nodeimg/nodeimg/preload"
	"github.com/nodeimg/nodeimg/preload/layers"
	"github.com/nodeimg/nodeimg/preload/trees"
	"github.com/nodeimg/nodeimg/recipes"
)

// plant unpacks the layers of a node image that hold the images into dir, which stands for its root folder, and returns what they hold.
func plant(t *testing.T, c *cache.Cache, dir string, layout recipes.Layout, images []recipes.LockedImage) []trees.Snapshot {
	t.Helper()
	made, err := layers.Make(t.Context(), c, images, layers.Options{Layout: layout, Max: 90, Epoch: epoch})
	if err != nil {
		t.Fatal(err)
	}
	contents := &preload.Contents{}
	for _, layer := range made {
		contents.Layers = append(contents.Layers, layer.Contents)
		stream, err := layer.Uncompressed()
		if err != nil {
			t.Fatal(err)
		}
		untar(t, dir, stream)
		_ = stream.Close()
	}
	return contents.Snapshots()
}

// untar unpacks a tar with all attributes, as the Engine that runs a node unpacks its layers.
func untar(t *testing.T, dir string, stream io.Reader) {
	t.Helper()
	command := exec.CommandContext(t.Context(), "tar", "-x", "-p", "--numeric-owner", "--delay-directory-restore", "--xattrs", "--xattrs-include=*", "-C", dir)
	command.Stdin = stream
	if out, err := command.CombinedOutput(); err != nil {
		t.Fatalf("unpacking a layer of the node: %v: %s", err, out)
	}
}

func write(t *testing.T, path string, content []byte) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, content, 0o644); err != nil {
		t.Fatal(err)
	}
}

// link makes a symbolic link to what has the path target in a node whose root folder is dir.
func link(t *testing.T, dir, path, target string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if filepath.IsAbs(target) {
		target = filepath.Join(dir, target)
	}
	if err := os.Symlink(target, path); err != nil {
		t.Fatal(err)
	}
}

// describe writes the manifests and configs of the images, the index and containerd's databases into the node whose root folder is dir.
func describe(t *testing.T, c *cache.Cache, dir string, cri recipes.CRIName, images []recipes.LockedImage, unpacked []trees.Snapshot) {
	t.Helper()
	index, err := preload.Index(images)
	if err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(dir, recipes.StorePath, "index.json"), index)
	for _, image := range images {
		blobs, err := preload.Blobs(c, image)
		if err != nil {
			t.Fatal(err)
		}
		for _, blob := range blobs {
			path := filepath.Join(dir, recipes.StorePath, "blobs", "sha256", blob.Digest.Encoded())
			content, err := os.ReadFile(c.Path(blob.Digest))
			if err != nil {
				t.Fatal(err)
			}
			if there, err := os.ReadFile(path); err == nil && !bytes.Equal(there, content) {
				t.Errorf("the layer of the node has another blob %s", blob.Digest)
			}
			write(t, path, content)
		}
	}
	state, err := preload.Databases(t.Context(), c, cri, images, unpacked, epoch)
	if err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(dir, recipes.DatabasesPath, "meta.db"), state.Meta)
	write(t, filepath.Join(dir, recipes.DatabasesPath, "metadata.db"), state.Snapshots)
	for name, target := range state.Links() {
		link(t, dir, filepath.Join(dir, recipes.DatabasesPath, "snapshots", name), target)
	}
}

// boot links the store of the node whose root folder is dir into containerd's root, as the node's boot unit does.
func boot(t *testing.T, dir, root string) {
	t.Helper()
	command := exec.CommandContext(t.Context(), "sh", "../../dockerfiles/node/containerd/usr/lib/nodeimg/boot-store.sh")
	command.Env = append(os.Environ(), "NODEIMG_STORE="+filepath.Join(dir, recipes.StorePath), "NODEIMG_DATABASES="+filepath.Join(dir, recipes.DatabasesPath),
		"NODEIMG_CONTAINERD_ROOT="+root, "NODEIMG_RUNTIME="+filepath.Join(root, "run"))
	if out, err := command.CombinedOutput(); err != nil || len(out) > 0 {
		t.Fatalf("booting: %v: %s", err, out)
	}
}

// run runs a program and returns its standard output.
func run(t *testing.T, program string, args ...string) string {
	t.Helper()
	out, failure, err := try(t, program, args...)
	if err != nil {
		t.Fatalf("%s %s: %v: %s", program, strings.Join(args, " "), err, failure)
	}
	return out
}

// try is run for a program that may fail.
func try(t *testing.T, program string, args ...string) (out, failure string, err error) {
	t.Helper()
	var stdout, stderr bytes.Buffer
	command := exec.CommandContext(t.Context(), program, args...)
	command.Stdout, command.Stderr = &stdout, &stderr
	err = command.Run()
	return stdout.String(), stderr.String(), err
}
