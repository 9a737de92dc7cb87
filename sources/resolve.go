package sources

import (
	"context"
	"crypto/x509"
	"fmt"
	"os"
	"slices"
	"sync"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/opencontainers/go-digest"
	"golang.org/x/sync/errgroup"

	"github.com/nodeimg/nodeimg/internal/cache"
	"github.com/nodeimg/nodeimg/internal/cachedimage"
	"github.com/nodeimg/nodeimg/internal/fetch"
	"github.com/nodeimg/nodeimg/preload"
	"github.com/nodeimg/nodeimg/recipes"
	"github.com/nodeimg/nodeimg/sources/modules"
	"github.com/nodeimg/nodeimg/sources/packages"
	"github.com/nodeimg/nodeimg/sources/release"
)

// nodePackages are the distribution packages that every node has, the same names in Debian and Ubuntu: systemd as PID 1, and the
// programs that kubeadm's preflight checks, the kubelet, kube-proxy and stock kind call (contracts/kind-node-image.md). haproxy is for
// the load balancer of several control planes, which is a container of the same image.
var nodePackages = []string{
	"bash", "ca-certificates", "conntrack", "dbus", "ethtool", "haproxy", "hostname", "iproute2", "iptables", "kmod", "libseccomp2",
	"mount", "netbase", "nftables", "procps", "socat", "systemd", "systemd-sysv", "tar", "util-linux",
}

// runtimePackages are the distribution packages that the container runtime needs besides: CRI-O's monitor of containers is in C and no Go
// module; a release of CRI-O brings one.
func runtimePackages(spec recipes.Spec) []string {
	if spec.CRI.Name == recipes.CRICRIO && spec.Kubernetes.Source == recipes.SourceModules {
		return []string{"conmon"}
	}
	return nil
}

// Options say where inputs are kept and how they may be reached.
type Options struct {
	// Cache receives every input.
	Cache *cache.Cache
	// Epoch is the time stamp of what is made rather than downloaded.
	Epoch time.Time
	// InsecureRegistries may be spoken to by plain http.
	InsecureRegistries []string
	// Engine serves "docker:" images; nil when the recipe has none.
	Engine preload.Engine
}

// Images returns the image sources of a recipe.
func (o Options) Images(document *recipes.Document) *preload.Sources {
	return &preload.Sources{
		Cache: o.Cache, Mirrors: document.Recipe.Spec.Mirrors, InsecureRegistries: o.InsecureRegistries, Dir: document.Dir, Engine: o.Engine,
		Roots: roots(document),
	}
}

// roots are the authorities to trust while resolving: the system's and the recipe's, or nil when the recipe has none of its own.
func roots(document *recipes.Document) *x509.CertPool {
	if len(document.Recipe.Spec.CACertificates) == 0 {
		return nil
	}
	pool, err := x509.SystemCertPool()
	if err != nil {
		pool = x509.NewCertPool()
	}
	for _, name := range document.Recipe.Spec.CACertificates {
		// Validation has read them; one that vanished since is reported when it is locked.
		if pem, err := os.ReadFile(document.HostPath(name)); err == nil {
			pool.AppendCertsFromPEM(pem)
		}
	}
	return pool
}

// resolution is one run of Resolve.
type resolution struct {
	options  Options
	document *recipes.Document
	recipe   recipes.Recipe
	platform string
	images   *preload.Sources
	client   *fetch.Client
	lock     *recipes.Lock
}

// Resolve returns the lock of the recipe for its first platform. Programs, packages and the base image are in the cache afterwards; of
// the images to preload only manifests and configs are, unless they were made here. The error is a *recipes.InputError when the recipe
// names something that does not exist.
func Resolve(ctx context.Context, document *recipes.Document, options Options) (*recipes.Lock, error) {
	recipe := document.Recipe
	r := &resolution{
		options: options, document: document, recipe: recipe, platform: recipe.Spec.Platforms[0],
		images: options.Images(document),
		client: &fetch.Client{Cache: options.Cache, Mirrors: recipe.Spec.Mirrors, Roots: roots(document)},
	}
	r.lock = &recipes.Lock{APIVersion: recipes.APIVersion, Kind: "Lock", Recipe: recipe.Digest(), Platform: r.platform}
	distro, ok := recipes.FindDistro(recipe.Spec.Base.Distro, recipe.Spec.Base.Release)
	if !ok {
		return nil, fmt.Errorf("resolving %s: unknown distribution %s %s", document.File, recipe.Spec.Base.Distro, recipe.Spec.Base.Release)
	}
	if recipe.Spec.Kubernetes.Source == recipes.SourceRelease {
		if err := release.CheckRuntime(recipe.Spec.CRI, r.platform); err != nil {
			return nil, r.at("spec.cri.version", err)
		}
	}
	r.lock.Base = recipes.LockedBase{Distro: distro.Name, Release: distro.Release, Codename: distro.Codename}

	files, err := lockFiles(document, options.Cache)
	if err != nil {
		return nil, err
	}
	r.lock.Files = files
	universe, err := r.universe(ctx)
	if err != nil {
		return nil, err
	}
	var kubernetes parts
	var user [][]recipes.LockedImage
	group, groupCtx := errgroup.WithContext(ctx)
	group.Go(func() error { return r.base(groupCtx, universe) })
	group.Go(func() (err error) {
		kubernetes, err = r.kubernetes(groupCtx, universe)
		return err
	})
	group.Go(func() (err error) {
		user, err = r.userImages(groupCtx)
		return err
	})
	if err := group.Wait(); err != nil {
		return nil, err
	}
	r.lock.Parts, r.lock.Modules = kubernetes.programs, kubernetes.modules
	if r.lock.Images, err = mergeImages(document, kubernetes.images, user); err != nil {
		return nil, err
	}
	return r.lock, nil
}

// parts is what a Kubernetes source yields.
type parts struct {
	programs []recipes.LockedPart
	images   []recipes.LockedImage
	modules  []recipes.LockedModule
}

// universe fetches the base image, if there is one, and returns where packages are resolved.
func (r *resolution) universe(ctx context.Context) (*packages.Universe, error) {
	spec := r.recipe.Spec
	if spec.Base.From == recipes.FromPackages {
		return packages.Distribution(spec.Base.Distro, r.lock.Base.Codename, r.platform, spec.Mirrors)
	}
	found, err := r.images.Resolve(ctx, recipes.ImageSource{Registry: spec.Base.Image}, r.platform, "")
	if err != nil {
		return nil, r.at("spec.base.image", err)
	}
	base := found[0]
	if err := r.images.Fetch(ctx, base); err != nil {
		return nil, r.at("spec.base.image", err)
	}
	r.lock.Base.Reference, r.lock.Base.Digest = base.Reference, base.Manifest
	image, err := cachedimage.Open(r.options.Cache, digest.Digest(base.Manifest))
	if err != nil {
		return nil, err
	}
	universe, err := packages.FromImage(image, spec.Mirrors)
	if err != nil {
		return nil, fmt.Errorf("base image %s: %w", base.Reference, err)
	}
	return universe, nil
}

// base resolves and fetches the distribution's packages, and bootstraps the root file system when the recipe says so.
func (r *resolution) base(ctx context.Context, universe *packages.Universe) error {
	names := slices.Compact(slices.Sorted(slices.Values(slices.Concat(nodePackages, runtimePackages(r.recipe.Spec), r.recipe.Spec.Packages))))
	locked, err := universe.Resolve(ctx, r.options.Cache, names)
	if err != nil {
		return r.at("spec.packages", err)
	}
	r.lock.Packages = locked
	if err := packages.Fetch(ctx, r.client, locked); err != nil {
		return err
	}
	if r.recipe.Spec.Base.From != recipes.FromPackages {
		return nil
	}
	manifest, err := packages.Bootstrap(ctx, r.options.Cache, universe, r.lock.Base.Codename, locked, r.options.Epoch)
	if err != nil {
		return err
	}
	r.lock.Base.Digest = manifest.String()
	return nil
}

// leavesOut says whether an image of that role stays out of the node. With preload.controlPlane off, all do that kubeadm, the pod network
// and the StorageClass need, but for the sandbox image, without which containerd starts no pod at all.
func leavesOut(preload recipes.Preload, role recipes.ImageRole) bool {
	return preload.ControlPlane != nil && !*preload.ControlPlane && role != recipes.RoleSandbox
}

// kubernetes resolves programs and control-plane images by the recipe's source.
func (r *resolution) kubernetes(ctx context.Context, universe *packages.Universe) (parts, error) {
	spec := r.recipe.Spec
	if leavesOut(spec.Preload, recipes.RoleStorage) {
		spec.Storage.Name = recipes.StorageNone
	}
	if spec.Kubernetes.Source == recipes.SourceModules {
		made, err := modules.Resolve(ctx, r.options.Cache, modules.Request{
			Kubernetes: spec.Kubernetes.Version, CRI: spec.CRI, Platform: r.platform, CNI: spec.CNI.Name, Storage: spec.Storage.Name, Epoch: r.options.Epoch,
			ToolsLayer: r.toolsLayer(universe),
		})
		if err != nil {
			return parts{}, err
		}
		images := slices.DeleteFunc(made.Images, func(i recipes.LockedImage) bool { return leavesOut(spec.Preload, i.Role) })
		return parts{programs: made.Parts, images: images, modules: made.Modules}, nil
	}
	programs, references, err := release.Resolve(ctx, r.client, release.Request{
		Kubernetes: spec.Kubernetes.Version, CRI: spec.CRI, Platform: r.platform, CNI: spec.CNI.Name, Storage: spec.Storage.Name,
	})
	if err != nil {
		return parts{}, err
	}
	references = slices.DeleteFunc(references, func(i release.ImageRef) bool { return leavesOut(spec.Preload, i.Role) })
	images := make([][]recipes.LockedImage, len(references))
	group, groupCtx := errgroup.WithContext(ctx)
	for i, reference := range references {
		group.Go(func() (err error) {
			images[i], err = r.images.Resolve(groupCtx, recipes.ImageSource{Registry: reference.Reference}, r.platform, reference.Role)
			return err
		})
	}
	if err := group.Wait(); err != nil {
		return parts{}, err
	}
	return parts{programs: programs, images: slices.Concat(images...)}, nil
}

// toolsLayer makes the layer that kube-proxy's and flannel's images stand on, from the same archive as the node, once for all of them.
func (r *resolution) toolsLayer(universe *packages.Universe) func(context.Context) (v1.Layer, error) {
	var once sync.Once
	var layer v1.Layer
	var err error
	return func(ctx context.Context) (v1.Layer, error) {
		once.Do(func() {
			var tools []recipes.LockedPackage
			if tools, err = universe.ResolveTools(ctx, r.options.Cache); err != nil {
				return
			}
			if err = packages.Fetch(ctx, r.client, tools); err != nil {
				return
			}
			layer, err = packages.ToolsLayer(ctx, r.options.Cache, tools, r.options.Epoch)
		})
		return layer, err
	}
}

// userImages resolves the recipe's own images, a list for each entry.
func (r *resolution) userImages(ctx context.Context) ([][]recipes.LockedImage, error) {
	list := r.recipe.Spec.Preload.Images
	images := make([][]recipes.LockedImage, len(list))
	group, groupCtx := errgroup.WithContext(ctx)
	for i, source := range list {
		group.Go(func() (err error) {
			images[i], err = r.images.Resolve(groupCtx, source, r.platform, recipes.RoleUser)
			return r.at(fmt.Sprintf("spec.preload.images[%d]", i), err)
		})
	}
	if err := group.Wait(); err != nil {
		return nil, err
	}
	return images, nil
}
