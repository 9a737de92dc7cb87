package release

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"golang.org/x/sync/errgroup"

	"github.com/opencontainers/go-digest"

	"github.com/nodeimg/nodeimg/internal/fetch"
	"github.com/nodeimg/nodeimg/internal/progress"
	"github.com/nodeimg/nodeimg/recipes"
	"github.com/nodeimg/nodeimg/sources/modules"
)

// Release servers. A recipe's mirrors redirect them by host, for instance dl.k8s.io and github.com.
const (
	kubernetesServer = "https://dl.k8s.io"
	githubServer     = "https://github.com"
	dockerServer     = "https://download.docker.com"
	storageServer    = "https://storage.googleapis.com"
)

// parallelDownloads is how many files are downloaded at a time.
const parallelDownloads = 4

// Request is what a recipe asks of the release servers.
type Request struct {
	// Kubernetes is the full version with a leading v, for instance v1.34.10.
	Kubernetes string
	// CRI is the container runtime with its version.
	CRI recipes.CRI
	// Platform is the node's, for instance linux/amd64.
	Platform string
	// CNI selects the pod network, whose images are named too; flannel has some, bridge and none have not.
	CNI recipes.CNIName
	// Storage selects what provides volumes, whose image is named too; none has none.
	Storage recipes.StorageName
}

// ImageRef is an image that the node needs.
type ImageRef struct {
	// Reference is the full name with a tag, for instance registry.k8s.io/etcd:3.6.5-0.
	Reference string
	// Role says what needs it.
	Role recipes.ImageRole
}

// Resolve makes sure that all programs for the request are in the client's cache and returns them, sorted by path, with the images
// that this Kubernetes version and pod network need, sorted by reference. The error is a *recipes.InputError for a request that cannot
// be served, wraps a *fetch.StatusError for a version that the servers do not have, and a *cache.DigestError for a download that is not
// what the project published.
func Resolve(ctx context.Context, client *fetch.Client, req Request) ([]recipes.LockedPart, []ImageRef, error) {
	arch := architecture(req.Platform)
	if arch == "" {
		return nil, nil, recipes.InputErrorf("platform %q: the projects release programs for linux only; expected for instance linux/amd64", req.Platform)
	}
	podNetwork, err := podNetworkImages(req.CNI)
	if err != nil {
		return nil, nil, err
	}
	if err := CheckRuntime(req.CRI, req.Platform); err != nil {
		return nil, nil, err
	}
	wanted := downloads(req, arch)
	var images []ImageRef
	found := make([][]recipes.LockedPart, len(wanted))
	group, groupCtx := errgroup.WithContext(ctx)
	group.SetLimit(parallelDownloads)
	for i, d := range wanted {
		group.Go(func() (err error) {
			found[i], err = resolveDownload(groupCtx, client, d)
			return err
		})
	}
	group.Go(func() (err error) {
		images, err = controlPlaneImages(groupCtx, client, req.Kubernetes)
		return err
	})
	if err := group.Wait(); err != nil {
		return nil, nil, err
	}
	parts := slices.Concat(found...)
	slices.SortFunc(parts, func(a, b recipes.LockedPart) int { return strings.Compare(a.Path, b.Path) })
	images = append(images, podNetwork...)
	if req.Storage == recipes.StorageLocalPath {
		images = append(images, ImageRef{Reference: modules.LocalPathImage, Role: recipes.RoleStorage})
	}
	slices.SortFunc(images, func(a, b ImageRef) int { return strings.Compare(a.Reference, b.Reference) })
	return parts, images, nil
}

// architecture is that of a platform, as releases are named after it: arm64 has variants that they do not tell apart. It is empty for
// anything but Linux.
func architecture(platform string) string {
	system, rest, _ := strings.Cut(platform, "/")
	if system != "linux" {
		return ""
	}
	arch, _, _ := strings.Cut(rest, "/")
	return arch
}

// download is one published file.
type download struct {
	// project and version as parts name them.
	project, version string
	// url of the file, checksums the URL of the text that holds its sha256; empty for a project that publishes none.
	url, checksums string
	// known is the sha256 of a file without published checksums; empty when nobody knows it.
	known digest.Digest
	// programs are what is taken from it. A download that is no archive has one, whose entry is empty.
	programs []program
}

// program is one program in a download.
type program struct {
	// entry is its path in the archive, path where it lies in the node.
	entry, path string
}

// downloads lists what req needs. The URLs and file names are those of the projects' own release pages.
func downloads(req Request, arch string) []download {
	list := []download{cniPlugins(arch), criTools(arch)}
	for _, name := range []string{"kubeadm", "kubelet", "kubectl"} {
		list = append(list, kubernetesProgram(req.Kubernetes, arch, name))
	}
	return append(list, runtimeDownloads(req.CRI, arch)...)
}

func kubernetesProgram(version, arch, name string) download {
	url := fmt.Sprintf("%s/release/%s/bin/linux/%s/%s", kubernetesServer, version, arch, name)
	return download{
		project: "kubernetes", version: version, url: url, checksums: url + ".sha256",
		programs: []program{{path: "/usr/bin/" + name}},
	}
}

func cniPlugins(arch string) download {
	version := modules.CNIPluginsVersion
	url := fmt.Sprintf("%s/containernetworking/plugins/releases/download/%s/cni-plugins-linux-%s-%s.tgz", githubServer, version, arch, version)
	d := download{project: "cni-plugins", version: version, url: url, checksums: url + ".sha256"}
	for _, name := range []string{
		"bandwidth", "bridge", "dhcp", "dummy", "firewall", "host-device", "host-local", "ipvlan", "loopback", "macvlan", "portmap", "ptp",
		"sbr", "static", "tap", "tuning", "vlan", "vrf",
	} {
		d.programs = append(d.programs, program{entry: name, path: "/opt/cni/bin/" + name})
	}
	return d
}

func criTools(arch string) download {
	version := modules.CRIToolsVersion
	url := fmt.Sprintf("%s/kubernetes-sigs/cri-tools/releases/download/%s/crictl-%s-linux-%s.tar.gz", githubServer, version, version, arch)
	return download{
		project: "cri-tools", version: version, url: url, checksums: url + ".sha256",
		programs: []program{{entry: "crictl", path: "/usr/local/bin/crictl"}},
	}
}

// resolveDownload gets the download into the cache and returns its programs.
func resolveDownload(ctx context.Context, client *fetch.Client, d download) ([]recipes.LockedPart, error) {
	name := d.url[strings.LastIndex(d.url, "/")+1:]
	step := progress.Start(ctx, "[fetch] %s %s", name, d.version)
	// The bytes are counted on this one step.
	parts, err := d.resolve(fetch.WithStep(ctx, step), client, name)
	if err != nil {
		err = fmt.Errorf("getting %s %s: %w", d.project, d.version, err)
	}
	return parts, step.Done(err)
}

func (d download) resolve(ctx context.Context, client *fetch.Client, name string) ([]recipes.LockedPart, error) {
	sum, err := d.sum(ctx, client, name)
	if err != nil {
		return nil, err
	}
	if err := client.Blob(ctx, d.url, sum, 0); err != nil {
		return nil, err
	}
	found := map[string]programFact{}
	if len(d.programs) == 1 && d.programs[0].entry == "" {
		size, err := client.Cache.Size(sum)
		if err != nil {
			return nil, err
		}
		found[""] = programFact{Digest: sum, Size: size}
	} else if found, err = unpack(ctx, client.Cache, sum, d.programs); err != nil {
		return nil, fmt.Errorf("unpacking %s: %w", name, err)
	}
	parts := make([]recipes.LockedPart, len(d.programs))
	for i, p := range d.programs {
		fact := found[p.entry]
		parts[i] = recipes.LockedPart{
			Name: d.project, Version: d.version, Path: p.path, Digest: fact.Digest.String(), Size: fact.Size, Origin: d.url,
		}
	}
	return parts, nil
}

// programFact is what the cache remembers about a program.
type programFact struct {
	Digest digest.Digest `json:"digest"`
	Size   int64         `json:"size"`
}
