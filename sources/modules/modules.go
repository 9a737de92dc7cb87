package modules

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"golang.org/x/mod/semver"
	"golang.org/x/sync/errgroup"

	"github.com/nodeimg/nodeimg/internal/cache"
	"github.com/nodeimg/nodeimg/recipes"
)

// Request says what to compile and for which platform.
type Request struct {
	// Kubernetes is the full version with a leading v, for instance v1.34.10; any that the Go module proxy serves.
	Kubernetes string
	// CRI is the container runtime with its version.
	CRI recipes.CRI
	// Platform is the node's, for instance linux/amd64.
	Platform string
	// CNI selects the pod network; only flannel has anything to compile.
	CNI recipes.CNIName
	// Storage selects what provides volumes; only local-path has anything to compile.
	Storage recipes.StorageName
	// ToolsLayer yields the deterministic layer with iptables, nft, conntrack and a shell that kube-proxy and flannel run on.
	ToolsLayer func(context.Context) (v1.Layer, error)
	// Epoch is the time stamp of files and image configurations, with a resolution of one second; the zero value is 1970-01-01.
	Epoch time.Time
}

// Result is what was compiled: every digest in it is a blob in the cache.
type Result struct {
	// Parts are the programs for the node's own file system, sorted by path.
	Parts []recipes.LockedPart
	// Images are the control-plane, sandbox and pod network images, sorted by reference; manifest, config and layers are blobs.
	Images []recipes.LockedImage
	// Modules are the main modules of all programs, sorted by path and version.
	Modules []recipes.LockedModule
}

// compilations is how many projects are compiled at once: one "go build" uses all processors while it compiles, but not while it
// downloads or links.
const compilations = 2

// Resolve compiles and packs everything that req asks for and that the cache does not hold yet. It needs the go command in PATH, and
// for runc, CRI-O and flannel a C compiler and libseccomp's headers. The environment of go is the user's, except that the checksum database
// is always on.
func Resolve(ctx context.Context, c *cache.Cache, req Request) (*Result, error) {
	target, err := parsePlatform(req.Platform)
	if err != nil {
		return nil, err
	}
	if !semver.IsValid(req.Kubernetes) || semver.Canonical(req.Kubernetes) != req.Kubernetes {
		return nil, fmt.Errorf("compiling Kubernetes %q: not a full version such as v1.34.10", req.Kubernetes)
	}
	switch req.CNI {
	case recipes.CNIFlannel, recipes.CNIBridge, recipes.CNINone, "":
	default:
		return nil, fmt.Errorf("compiling pod network %q: kubernetes.source modules has flannel only; use cni.name flannel, bridge or none, or kubernetes.source release", req.CNI)
	}
	if req.ToolsLayer == nil {
		return nil, errors.New("packing the kube-proxy image: no tools layer given")
	}
	if req.Epoch.IsZero() {
		req.Epoch = time.Unix(0, 0)
	}
	req.Epoch = req.Epoch.UTC().Truncate(time.Second)

	work, err := c.Dir("modules")
	if err != nil {
		return nil, err
	}
	scratch, release, err := c.TempDir("go")
	if err != nil {
		return nil, err
	}
	defer release()
	tool, err := findGo(ctx, scratch)
	if err != nil {
		return nil, err
	}
	compiler := &compiler{cache: c, tool: tool, target: target, work: work}
	projects := projectsFor(req)
	for _, p := range projects {
		if err := compiler.possible(p); err != nil {
			return nil, err
		}
	}

	builds := make([]*build, len(projects))
	packer := &packer{cache: c, target: target, epoch: req.Epoch, programs: map[string]file{}}
	group, groupCtx := errgroup.WithContext(ctx)
	group.Go(func() error {
		if err := packer.addTools(groupCtx, req.ToolsLayer); err != nil {
			return fmt.Errorf("adding the tools that kube-proxy and the pod network run: %w", err)
		}
		return nil
	})
	group.Go(func() error { return compiler.buildAll(groupCtx, projects, builds) })
	if err := group.Wait(); err != nil {
		return nil, err
	}

	result := &Result{}
	for i, p := range projects {
		parts, modules := lockProject(p, builds[i])
		result.Parts = append(result.Parts, parts...)
		result.Modules = append(result.Modules, modules...)
		for name, f := range builds[i].Programs {
			packer.programs[p.name+"/"+name] = f
		}
	}
	if result.Images, err = packer.packAll(ctx, imagesFor(req)); err != nil {
		return nil, err
	}
	slices.SortFunc(result.Parts, func(a, b recipes.LockedPart) int { return cmp.Compare(a.Path, b.Path) })
	slices.SortFunc(result.Images, func(a, b recipes.LockedImage) int { return cmp.Compare(a.Reference, b.Reference) })
	slices.SortFunc(result.Modules, func(a, b recipes.LockedModule) int {
		return cmp.Or(cmp.Compare(a.Path, b.Path), semver.Compare(a.Version, b.Version))
	})
	return result, nil
}

// buildAll fills builds with those of projects.
func (c *compiler) buildAll(ctx context.Context, projects []project, builds []*build) error {
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(compilations)
	for i, p := range projects {
		group.Go(func() error {
			var err error
			builds[i], err = c.build(ctx, p)
			return err
		})
	}
	return group.Wait()
}

// lockProject names p's programs for the node and its modules.
func lockProject(p project, b *build) (parts []recipes.LockedPart, modules []recipes.LockedModule) {
	for _, prog := range p.programs {
		if prog.path == "" {
			continue
		}
		f := b.Programs[prog.name()]
		parts = append(parts, recipes.LockedPart{
			Name: p.name, Version: strings.TrimSuffix(p.version, incompatible), Path: prog.path, Digest: f.Digest.String(), Size: f.Size,
			Origin: prog.origin(p) + "@" + p.version,
		})
	}
	for _, m := range b.Modules {
		modules = append(modules, recipes.LockedModule{Path: m.Path, Version: m.Version, Sum: m.Sum, Dependencies: b.GoSum.String()})
	}
	return parts, modules
}

// packAll packs the images, as many at once as there are processors.
func (p *packer) packAll(ctx context.Context, images []image) ([]recipes.LockedImage, error) {
	locked := make([]recipes.LockedImage, len(images))
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(runtime.NumCPU())
	for i, img := range images {
		group.Go(func() error {
			var err error
			if locked[i], err = p.pack(ctx, img); err != nil {
				return fmt.Errorf("packing image %s: %w", img.reference, err)
			}
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		return nil, err
	}
	return locked, nil
}
