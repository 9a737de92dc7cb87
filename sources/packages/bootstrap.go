package packages

import (
	"bytes"
	"context"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/opencontainers/go-digest"

	"github.com/nodeimg/nodeimg/internal/cache"
	"github.com/nodeimg/nodeimg/internal/cachedimage"
	"github.com/nodeimg/nodeimg/internal/progress"
	"github.com/nodeimg/nodeimg/recipes"
)

// bootstrapFormat is part of the content key; it changes whenever the same packages would give another layer.
const bootstrapFormat = "2"

//go:embed merge-usr.sh
var mergeUsr []byte

// Bootstrap installs exactly the packages into a new root file system, without network, and packs it as an OCI image of one layer whose
// blobs lie in the cache. It returns the digest of the image's manifest. The packages must be in the cache (Fetch) and closed
// (Resolve of a Distribution universe u, whose sources become the image's sources.list). The same packages, codename, sources and epoch
// give the same digest. It needs root and the programs mmdebstrap, apt-get and dpkg; killed at any moment it leaves no mount, no
// process and at most a folder that the next call removes.
func Bootstrap(ctx context.Context, c *cache.Cache, u *Universe, codename string, packages []recipes.LockedPackage, epoch time.Time) (digest.Digest, error) {
	key := bootstrapKey(u, codename, packages, epoch)
	var manifest digest.Digest
	complete := func() (bool, error) {
		ok, err := c.Fact(key, &manifest)
		return ok && cachedimage.Complete(c, manifest), err
	}
	if ok, err := complete(); ok || err != nil {
		return manifest, err
	}
	step := progress.Start(ctx, "[bootstrap] %s from %d packages", codename, len(packages))
	unlock, err := c.Lock(ctx, "bootstrap")
	if err != nil {
		return "", step.Done(fmt.Errorf("bootstrapping %s: %w", codename, err))
	}
	defer unlock()
	if ok, err := complete(); ok || err != nil {
		return manifest, step.Done(err)
	}
	b := bootstrap{cache: c, universe: u, codename: codename, packages: packages, epoch: epoch, step: step}
	if manifest, err = b.run(ctx); err != nil {
		return "", step.Done(fmt.Errorf("bootstrapping %s: %w", codename, err))
	}
	return manifest, step.Done(c.PutFact(key, manifest))
}

func bootstrapKey(u *Universe, codename string, packages []recipes.LockedPackage, epoch time.Time) string {
	d := digest.SHA256.Digester()
	fmt.Fprintf(d.Hash(), "%s\n%s\n%s\n%s\n%d\n", bootstrapFormat, u.Architecture, codename, u.SourceList(), epoch.Unix())
	for _, p := range packages {
		fmt.Fprintln(d.Hash(), p.Digest)
	}
	return "bootstrap-" + d.Digest().Encoded()
}

type bootstrap struct {
	cache    *cache.Cache
	universe *Universe
	codename string
	packages []recipes.LockedPackage
	epoch    time.Time
	step     *progress.Step
}

func (b *bootstrap) run(ctx context.Context) (digest.Digest, error) {
	if os.Geteuid() != 0 {
		return "", errors.New("base.from packages needs root to install packages; run as root, or use base.from: image")
	}
	if b.universe.Architecture != architectures[runtime.GOARCH] {
		return "", fmt.Errorf("packages of %s cannot be installed on this %s host", b.universe.Architecture, architectures[runtime.GOARCH])
	}
	parent, err := b.cache.Dir("bootstrap")
	if err != nil {
		return "", err
	}
	// We hold the lock, so whatever lies there is of a process that was killed; its mounts went with its namespace.
	if err := removeChildren(parent); err != nil {
		return "", err
	}
	dir, err := os.MkdirTemp(parent, "run-")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(dir)
	// The chroot's own users have to reach their files.
	for _, sub := range []string{"", "repository", "tmp"} {
		if err := os.MkdirAll(filepath.Join(dir, sub), 0o755); err != nil {
			return "", err
		}
		if err := os.Chmod(filepath.Join(dir, sub), 0o755); err != nil {
			return "", err
		}
	}
	hook := filepath.Join(dir, "merge-usr.sh")
	if err := os.WriteFile(hook, mergeUsr, 0o755); err != nil {
		return "", err
	}
	repository := filepath.Join(dir, "repository")
	essential, err := writeRepository(ctx, b.cache, repository, b.packages)
	if err != nil {
		return "", err
	}
	var include []string
	for _, p := range b.packages {
		if !essential[p.Name] {
			include = append(include, p.Name)
		}
	}
	arguments := []string{
		"--mode=root", "--variant=apt", "--format=tar", "--architectures=" + b.universe.Architecture, "--include=" + strings.Join(include, ","),
		"--aptopt=APT::Install-Recommends \"false\"",
		// The image's own /dev comes from the runtime.
		"--skip=output/dev",
		// What is cut off by a crash is thrown away as a whole.
		"--dpkgopt=force-unsafe-io",
		"--setup-hook=" + hook,
		b.codename, "-", "deb [trusted=yes] copy:" + repository + " ./",
	}
	for _, trimmed := range trimmedFolders {
		arguments = slices.Insert(arguments, 0, "--dpkgopt=path-exclude="+trimmed+"/*")
	}
	for _, kept := range keptInTrimmed {
		// dpkg lets the last match win, so what stays has to come after what goes.
		arguments = slices.Insert(arguments, len(trimmedFolders), "--dpkgopt=path-include="+kept)
	}
	layer, err := b.layer(ctx, arguments, filepath.Join(dir, "tmp"))
	if err != nil {
		return "", err
	}
	return b.image(layer)
}

func removeChildren(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, entry := range entries {
		if err := os.RemoveAll(filepath.Join(dir, entry.Name())); err != nil {
			return err
		}
	}
	return nil
}

// layer runs mmdebstrap and stores its tar, normalised and compressed, in the cache.
func (b *bootstrap) layer(ctx context.Context, arguments []string, tmp string) (storedLayer, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	cmd := command(ctx, "mmdebstrap", arguments...)
	cmd.Env = append(cmd.Env, "TMPDIR="+tmp, fmt.Sprintf("SOURCE_DATE_EPOCH=%d", b.epoch.Unix()), "PATH=/usr/sbin:/usr/bin:/sbin:/bin")
	// As first process of its own PID namespace mmdebstrap takes every child with it, and its mounts lie in a namespace that ends then;
	// the network namespace has no route, so that no maintainer script can reach anything.
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Setpgid: true, Pdeathsig: syscall.SIGKILL,
		Unshareflags: syscall.CLONE_NEWNS, Cloneflags: syscall.CLONE_NEWPID | syscall.CLONE_NEWNET | syscall.CLONE_NEWIPC | syscall.CLONE_NEWUTS,
	}
	var stderr bytes.Buffer
	cmd.Stderr = io.MultiWriter(&stderr, logWriter{b.step})
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return storedLayer{}, err
	}
	// The kernel sends Pdeathsig when the thread that started the child ends, not the process.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if err := cmd.Start(); err != nil {
		return storedLayer{}, commandError("mmdebstrap", err, nil)
	}
	replaced := map[string][]byte{
		"etc/apt/sources.list": []byte(b.universe.SourceList()),
		"etc/machine-id":       {},
	}
	layer, layerErr := storeLayer(b.cache, func(w io.Writer) error { return normalise(w, stdout, b.epoch, replaced) })
	if layerErr != nil {
		cancel(layerErr)
	}
	if err := cmd.Wait(); err != nil && ctx.Err() == nil {
		return storedLayer{}, commandError("mmdebstrap", err, stderr.Bytes())
	}
	if cause := context.Cause(ctx); cause != nil {
		return storedLayer{}, cause
	}
	return layer, layerErr
}

// logWriter shows a program's output below a step.
type logWriter struct{ step *progress.Step }

func (l logWriter) Write(p []byte) (int, error) {
	l.step.Log("%s", p)
	return len(p), nil
}

// image stores config and manifest of the one-layer image.
func (b *bootstrap) image(layer storedLayer) (digest.Digest, error) {
	created := v1.Time{Time: b.epoch.UTC()}
	hash, err := v1.NewHash(layer.DiffID.String())
	if err != nil {
		return "", err
	}
	config, err := json.Marshal(v1.ConfigFile{
		Architecture: runtime.GOARCH, OS: "linux", Created: created,
		Config:  v1.Config{Env: []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}, Cmd: []string{"bash"}},
		RootFS:  v1.RootFS{Type: "layers", DiffIDs: []v1.Hash{hash}},
		History: []v1.History{{Created: created, CreatedBy: "nodeimg: " + b.codename + " bootstrapped from packages"}},
	})
	if err != nil {
		return "", err
	}
	configDescriptor, err := b.store(config, types.OCIConfigJSON)
	if err != nil {
		return "", err
	}
	layerHash, err := v1.NewHash(layer.Digest.String())
	if err != nil {
		return "", err
	}
	manifest, err := json.Marshal(v1.Manifest{
		SchemaVersion: 2, MediaType: types.OCIManifestSchema1, Config: configDescriptor,
		Layers: []v1.Descriptor{{MediaType: types.OCILayer, Size: layer.Size, Digest: layerHash}},
	})
	if err != nil {
		return "", err
	}
	return b.cache.PutBytes(manifest)
}

func (b *bootstrap) store(content []byte, mediaType types.MediaType) (v1.Descriptor, error) {
	d, err := b.cache.PutBytes(content)
	if err != nil {
		return v1.Descriptor{}, err
	}
	hash, err := v1.NewHash(d.String())
	return v1.Descriptor{MediaType: mediaType, Size: int64(len(content)), Digest: hash}, err
}
