package upstream

import (
	"archive/tar"
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/opencontainers/go-digest"

	"github.com/nodeimg/nodeimg/internal/cache"
	"github.com/nodeimg/nodeimg/internal/cachedimage"
	"github.com/nodeimg/nodeimg/recipes"
	"github.com/nodeimg/nodeimg/sources/packages"
	"github.com/nodeimg/nodeimg/test/internal/tools"
)

// flannelPluginReference is the image with the CNI plugin that flannel's manifest for v0.28 names.
const flannelPluginReference = "ghcr.io/flannel-io/flannel-cni-plugin:v1.9.1-flannel1"

// kubeadmImages asks the lock's kubeadm for the images of its own version.
func kubeadmImages(ctx context.Context, c *cache.Cache, lock *recipes.Lock) ([]string, error) {
	content, err := partContent(c, lock, "/usr/bin/kubeadm")
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp("", "nodeimg-upstream-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	program := filepath.Join(dir, "kubeadm")
	if err := os.WriteFile(program, content, 0o755); err != nil {
		return nil, err
	}
	i := slices.IndexFunc(lock.Parts, func(p recipes.LockedPart) bool { return p.Path == "/usr/bin/kubeadm" })
	cmd := exec.CommandContext(ctx, program, "config", "images", "list", "--kubernetes-version", lock.Parts[i].Version)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("asking kubeadm for its images: %w: %s", err, stderr.String())
	}
	return strings.Fields(string(out)), nil
}

// flannelPluginImage packs the lock's flannel plugin as upstream's image has it, /flannel, with a cp to install it.
func flannelPluginImage(ctx context.Context, c *cache.Cache, lock *recipes.Lock) (v1.Image, error) {
	plugin, err := partContent(c, lock, "/opt/cni/bin/flannel")
	if err != nil {
		return nil, err
	}
	program, err := tools.Command(ctx, "test/internal/upstream/testdata/cp")
	if err != nil {
		return nil, err
	}
	cp, err := os.ReadFile(program)
	if err != nil {
		return nil, err
	}
	var content bytes.Buffer
	w := tar.NewWriter(&content)
	for _, f := range []struct {
		name    string
		content []byte
	}{{"bin/cp", cp}, {"flannel", plugin}} {
		if err := w.WriteHeader(&tar.Header{Name: f.name, Mode: 0o755, Size: int64(len(f.content))}); err != nil {
			return nil, err
		}
		if _, err := w.Write(f.content); err != nil {
			return nil, err
		}
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	layer, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(content.Bytes())), nil })
	if err != nil {
		return nil, err
	}
	return finish(lock.Platform, layer, v1.Config{
		Cmd: []string{"/flannel"}, Env: []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"},
	})
}

// Distribution returns an image like Docker Hub's of the distribution: what mmdebstrap's variant minbase installs from the host's own
// package sources, with apt and these sources in it. It is made once per cache and needs root.
func Distribution(ctx context.Context, c *cache.Cache, distro, codename string) (v1.Image, error) {
	universe, err := packages.Distribution(distro, codename, "linux/"+runtime.GOARCH, nil)
	if err != nil {
		return nil, err
	}
	list := universe.SourceList()
	key := "test-upstream-distribution-" + digest.FromString(list).Encoded()
	unlock, err := c.Lock(ctx, key)
	if err != nil {
		return nil, err
	}
	defer unlock()
	var known digest.Digest
	if ok, err := c.Fact(key, &known); err != nil {
		return nil, err
	} else if ok && cachedimage.Complete(c, known) {
		return cachedimage.Open(c, known)
	}
	dir, err := os.MkdirTemp("", "nodeimg-upstream-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	rootfs := filepath.Join(dir, "rootfs.tar")
	cmd := exec.CommandContext(ctx, "mmdebstrap", "--quiet", "--variant=minbase", codename, rootfs, "-")
	cmd.Stdin = strings.NewReader(list)
	if out, err := cmd.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("bootstrapping %s %s: %w\n%s", distro, codename, err, out)
	}
	layer, err := tarball.LayerFromFile(rootfs)
	if err != nil {
		return nil, err
	}
	image, err := finish("linux/"+runtime.GOARCH, layer, v1.Config{
		Cmd: []string{"bash"}, Env: []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"},
	})
	if err != nil {
		return nil, err
	}
	manifest, err := cachedimage.Put(c, image)
	if err != nil {
		return nil, err
	}
	if err := c.PutFact(key, manifest); err != nil {
		return nil, err
	}
	return cachedimage.Open(c, manifest)
}

// finish makes an image of one layer.
func finish(platform string, layer v1.Layer, config v1.Config) (v1.Image, error) {
	image, err := mutate.AppendLayers(empty.Image, layer)
	if err != nil {
		return nil, err
	}
	file, err := image.ConfigFile()
	if err != nil {
		return nil, err
	}
	file = file.DeepCopy()
	file.OS, file.Architecture, _ = strings.Cut(platform, "/")
	file.Config = config
	return mutate.ConfigFile(image, file)
}
