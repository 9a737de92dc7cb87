package release

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"

	"github.com/nodeimg/nodeimg/internal/cache"
	"github.com/nodeimg/nodeimg/internal/fetch"
	"github.com/nodeimg/nodeimg/internal/progress"
	"github.com/nodeimg/nodeimg/recipes"
	"github.com/nodeimg/nodeimg/sources/modules"
)

// flannelPluginImage is the init container that upstream's manifest (Documentation/kube-flannel.yml) of modules.FlannelVersion uses to
// install the CNI plugin.
const flannelPluginImage = "ghcr.io/flannel-io/flannel-cni-plugin:v1.9.1-flannel1"

// kubeadmTimeout is how long kubeadm may take to name its images, which it does within a second and without network.
const kubeadmTimeout = time.Minute

// podNetworkImages names the images of the pod network.
func podNetworkImages(cni recipes.CNIName) ([]ImageRef, error) {
	switch cni {
	case recipes.CNIBridge, recipes.CNINone, "":
		return nil, nil
	case recipes.CNIFlannel:
		return []ImageRef{
			{Reference: "ghcr.io/flannel-io/flannel:" + modules.FlannelVersion, Role: recipes.RoleCNI},
			{Reference: flannelPluginImage, Role: recipes.RoleCNI},
		}, nil
	default:
		return nil, recipes.InputErrorf("spec.cni.name %q: its images cannot be resolved yet; expected flannel, bridge or none", cni)
	}
}

// controlPlaneImages names the images that kubeadm of that version asks for. It is the kubeadm for the host's processor that is asked,
// whatever the node's platform: the names do not depend on it.
func controlPlaneImages(ctx context.Context, client *fetch.Client, version string) ([]ImageRef, error) {
	step := progress.Start(ctx, "[resolve] images of Kubernetes %s", version)
	images, cached, err := askKubeadm(fetch.WithStep(ctx, step), client, version)
	if cached {
		step.Cached()
	}
	if err != nil {
		err = fmt.Errorf("finding the images of Kubernetes %s: %w", version, err)
	}
	return images, step.Done(err)
}

func askKubeadm(ctx context.Context, client *fetch.Client, version string) (images []ImageRef, cached bool, err error) {
	if runtime.GOOS != "linux" {
		return nil, false, fmt.Errorf("they are named by kubeadm, which runs on linux only, and this is %s; build on linux", runtime.GOOS)
	}
	d := kubernetesProgram(version, runtime.GOARCH, "kubeadm")
	sum, err := publishedSum(ctx, client, d.checksums, "kubeadm")
	if err != nil {
		return nil, false, err
	}
	key := "release-images-" + sum.Encoded() + "-" + version
	var list string
	if cached, err = client.Cache.Fact(key, &list); err != nil {
		return nil, false, err
	}
	if !cached {
		if err := client.Blob(ctx, d.url, sum, 0); err != nil {
			return nil, false, err
		}
		if list, err = run(ctx, client.Cache, sum, "kubeadm", "config", "images", "list", "--kubernetes-version", version); err != nil {
			return nil, false, err
		}
	}
	if images, err = parseImages(list); err != nil {
		return nil, false, err
	}
	if !cached {
		err = client.Cache.PutFact(key, list)
	}
	return images, cached, err
}

// parseImages reads what "kubeadm config images list" writes: one reference per line.
func parseImages(list string) ([]ImageRef, error) {
	var images []ImageRef
	for _, line := range strings.Fields(list) {
		named, err := reference.ParseNormalizedNamed(line)
		if err != nil {
			return nil, fmt.Errorf("reading kubeadm's list of images: %q: %w", line, err)
		}
		tagged, ok := named.(reference.NamedTagged)
		if !ok {
			return nil, fmt.Errorf("reading kubeadm's list of images: %q has no tag", line)
		}
		images = append(images, ImageRef{Reference: tagged.String(), Role: role(path.Base(tagged.Name()))})
	}
	for _, needed := range []recipes.ImageRole{recipes.RoleControlPlane, recipes.RoleEtcd, recipes.RoleDNS, recipes.RoleSandbox} {
		if !slices.ContainsFunc(images, func(i ImageRef) bool { return i.Role == needed }) {
			return nil, fmt.Errorf("reading kubeadm's list of images: it names no %s image: %q", needed, list)
		}
	}
	return images, nil
}

// role says what an image of the list is, by its short name.
func role(name string) recipes.ImageRole {
	switch name {
	case "etcd":
		return recipes.RoleEtcd
	case "coredns":
		return recipes.RoleDNS
	case "pause":
		return recipes.RoleSandbox
	default:
		return recipes.RoleControlPlane
	}
}

// run executes the program that lies in the cache under d and returns its standard output. The program is copied into memory for that:
// the cache may lie on a file system that executes nothing, and so nothing is left when this process is killed.
func run(ctx context.Context, c *cache.Cache, d digest.Digest, name string, args ...string) (string, error) {
	program, err := inMemory(c, d, name)
	if err != nil {
		return "", fmt.Errorf("running %s: %w", name, err)
	}
	defer program.Close()
	ctx, cancel := context.WithTimeoutCause(ctx, kubeadmTimeout, fmt.Errorf("it did not end within %s", kubeadmTimeout))
	defer cancel()
	// Extra file 0 is descriptor 3 of the child.
	cmd := exec.CommandContext(ctx, "/proc/self/fd/3", args...)
	cmd.Args[0] = name
	cmd.ExtraFiles = []*os.File{program}
	// Nothing of the user's environment, a configuration file or a proxy, changes what it says.
	cmd.Env = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/nonexistent"}
	cmd.Dir = "/"
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		if cause := context.Cause(ctx); cause != nil {
			err = cause
		}
		if said := strings.TrimSpace(stderr.String()); said != "" {
			return "", fmt.Errorf("running %s: %w: %s", name, err, said)
		}
		return "", fmt.Errorf("running %s: %w", name, err)
	}
	return stdout.String(), nil
}

// inMemory copies a program into memory that can be executed (memfd_create(2)).
func inMemory(c *cache.Cache, d digest.Digest, name string) (*os.File, error) {
	source, err := c.Open(d)
	if err != nil {
		return nil, err
	}
	defer source.Close()
	fd, err := unix.MemfdCreate(name, unix.MFD_CLOEXEC|unix.MFD_EXEC)
	if err == unix.EINVAL {
		// Before Linux 6.3 there was no such flag, and every memfd could be executed.
		fd, err = unix.MemfdCreate(name, unix.MFD_CLOEXEC)
	}
	if err != nil {
		return nil, fmt.Errorf("creating a file in memory: %w", err)
	}
	f := os.NewFile(uintptr(fd), name)
	if _, err := io.Copy(f, source); err != nil {
		_ = f.Close()
		return nil, fmt.Errorf("copying it into memory: %w", err)
	}
	return f, nil
}
