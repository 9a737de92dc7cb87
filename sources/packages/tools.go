package packages

import (
	"archive/tar"
	"bytes"
	"context"
	_ "embed"
	"errors"
	"fmt"
	"io"
	"maps"
	"path"
	"slices"
	"strings"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/opencontainers/go-digest"

	"github.com/nodeimg/nodeimg/internal/cache"
	"github.com/nodeimg/nodeimg/internal/cachedimage"
	"github.com/nodeimg/nodeimg/internal/progress"
	"github.com/nodeimg/nodeimg/recipes"
)

// toolsFormat is part of the content key; it changes whenever the same packages would give another layer.
const toolsFormat = "4"

// toolNames are what images of node programs need: packet filters of both kinds, module loading, and a shell with what scripts of
// local-path-provisioner call.
var toolNames = []string{"busybox-static", "conntrack", "dash", "ipset", "iptables", "kmod", "nftables"}

// unneededTools are packages that only maintainer scripts need, and none is run in a tools layer.
var unneededTools = []string{"debconf", "debianutils", "dpkg", "perl-base"}

//go:embed iptables-wrapper.sh
var iptablesWrapper []byte

// shellPrograms are those of busybox's programs that local-path-provisioner's pods call.
var shellPrograms = []string{"mkdir", "nc", "rm", "sleep"}

// wrapperPath is where the wrapper lies in the layer; wrapped are the names under which it is called.
const wrapperPath = "usr/sbin/iptables-wrapper"

var wrapped = []string{"ip6tables", "ip6tables-restore", "ip6tables-save", "iptables", "iptables-restore", "iptables-save"}

// ResolveTools returns the packages of the tools layer: iptables with both backends, nftables, conntrack, ipset, kmod, a shell and what
// they load. Whatever u has installed does not matter.
func (u *Universe) ResolveTools(ctx context.Context, c *cache.Cache) ([]recipes.LockedPackage, error) {
	tools := u.Empty()
	var status strings.Builder
	for _, name := range unneededTools {
		fmt.Fprintf(&status, "Package: %s\nStatus: install ok installed\nVersion: 999:0\nArchitecture: %s\nMulti-Arch: foreign\nMaintainer: nodeimg\nDescription: not needed\n\n", name, u.Architecture)
	}
	tools.Status = []byte(status.String())
	return tools.Resolve(ctx, c, toolNames)
}

// ToolsLayer merges the files of packages (ResolveTools) from the cache into one layer for images of network programs, in Go and without
// running anything of them: documentation trimmed, /bin, /sbin and /lib merged into /usr, and iptables under its usual names choosing
// the backend that the node uses. The same packages and epoch give the same digest. The layer's bytes lie in the cache.
func ToolsLayer(ctx context.Context, c *cache.Cache, packages []recipes.LockedPackage, epoch time.Time) (v1.Layer, error) {
	d := digest.SHA256.Digester()
	fmt.Fprintf(d.Hash(), "%s\n%d\n%s\n", toolsFormat, epoch.Unix(), digest.FromBytes(iptablesWrapper))
	for _, p := range packages {
		fmt.Fprintln(d.Hash(), p.Digest)
	}
	key := "tools-" + d.Digest().Encoded()
	var layer storedLayer
	if ok, err := c.Fact(key, &layer); err != nil || ok && c.Has(layer.Digest) {
		return asLayer(c, layer, err)
	}
	step := progress.Start(ctx, "[pack] network tools from %d packages", len(packages))
	layer, err := packTools(ctx, c, packages, epoch)
	if err != nil {
		return nil, step.Done(fmt.Errorf("packing network tools: %w", err))
	}
	return asLayer(c, layer, step.Done(c.PutFact(key, layer)))
}

func asLayer(c *cache.Cache, layer storedLayer, err error) (v1.Layer, error) {
	if err != nil {
		return nil, err
	}
	return cachedimage.GzipLayer(c, layer.Digest, layer.DiffID, layer.Size)
}

// entry is one file of the merged tree.
type entry struct {
	header  *tar.Header
	content []byte
	owner   string
}

func packTools(ctx context.Context, c *cache.Cache, packages []recipes.LockedPackage, epoch time.Time) (storedLayer, error) {
	tree := map[string]entry{}
	for _, p := range packages {
		if err := addPackage(ctx, c, p, tree); err != nil {
			return storedLayer{}, fmt.Errorf("package %s %s: %w", p.Name, p.Version, err)
		}
	}
	if _, ok := tree["usr/sbin/xtables-nft-multi"]; !ok {
		return storedLayer{}, errors.New("the packages have no iptables")
	}
	tree[wrapperPath] = entry{header: &tar.Header{Typeflag: tar.TypeReg, Mode: 0o755, Size: int64(len(iptablesWrapper)), ModTime: epoch}, content: iptablesWrapper}
	for _, name := range wrapped {
		tree["usr/sbin/"+name] = entry{header: &tar.Header{Typeflag: tar.TypeSymlink, Linkname: path.Base(wrapperPath), Mode: 0o777, ModTime: epoch}}
	}
	for _, name := range shellPrograms {
		tree["usr/bin/"+name] = entry{header: &tar.Header{Typeflag: tar.TypeSymlink, Linkname: "busybox", Mode: 0o777, ModTime: epoch}}
	}
	for name, mode := range map[string]int64{"dev": 0o755, "proc": 0o555, "run": 0o755, "sys": 0o555, "tmp": 0o1777} {
		tree[name] = entry{header: &tar.Header{Typeflag: tar.TypeDir, Mode: mode, ModTime: epoch}}
	}
	for _, name := range slices.Collect(maps.Keys(tree)) {
		for dir := path.Dir(name); dir != "."; dir = path.Dir(dir) {
			if _, ok := tree[dir]; !ok {
				tree[dir] = entry{header: &tar.Header{Typeflag: tar.TypeDir, Mode: 0o755, ModTime: epoch}}
			}
		}
	}
	return storeLayer(c, func(w io.Writer) error {
		out := tar.NewWriter(w)
		for _, name := range mergedFolders {
			header := &tar.Header{Typeflag: tar.TypeSymlink, Linkname: "usr/" + name, Mode: 0o777, ModTime: epoch}
			if err := writeEntry(out, header, name, nil, epoch); err != nil {
				return err
			}
		}
		for _, name := range slices.Sorted(maps.Keys(tree)) {
			e := tree[name]
			if err := writeEntry(out, e.header, name, bytes.NewReader(e.content), epoch); err != nil {
				return err
			}
		}
		return out.Close()
	})
}

// mergedFolders are the top-level folders that are links into /usr.
var mergedFolders = []string{"bin", "lib", "lib64", "sbin"}

// merged returns where a file of a package lies in a merged tree, and is empty for the merged folders themselves.
func merged(name string) string {
	first, rest, _ := strings.Cut(strings.TrimPrefix(path.Clean("/"+name), "/"), "/")
	if !slices.Contains(mergedFolders, first) {
		return path.Join(first, rest)
	}
	if rest == "" {
		return ""
	}
	return path.Join("usr", first, rest)
}

// unneededFiles says what of the tools' packages no tool reads.
func unneededFiles(name string) bool {
	for _, folder := range []string{"usr/share/bash-completion/", "usr/share/initramfs-tools/", "usr/share/lintian/", "etc/init.d/", "usr/lib/systemd/"} {
		if strings.HasPrefix(name, folder) {
			return true
		}
	}
	// Character set conversions of the C library.
	return strings.Contains(name, "/gconv/") || trimmed(name)
}

// addPackage merges the files of one package into tree.
func addPackage(ctx context.Context, c *cache.Cache, p recipes.LockedPackage, tree map[string]entry) error {
	d := digest.Digest(p.Digest)
	if !c.Has(d) {
		return fmt.Errorf("%s is not in the cache; fetch it first", d)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var stderr bytes.Buffer
	cmd := command(ctx, "dpkg-deb", "--fsys-tarfile", c.Path(d))
	cmd.Stderr = &stderr
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return commandError("dpkg-deb", err, nil)
	}
	if err := readPackage(stdout, p.Name, tree); err != nil {
		cancel()
		return errors.Join(err, cmd.Wait())
	}
	if err := cmd.Wait(); err != nil {
		return commandError("dpkg-deb", err, stderr.Bytes())
	}
	return nil
}

func readPackage(r io.Reader, owner string, tree map[string]entry) error {
	for archive := tar.NewReader(r); ; {
		header, err := archive.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			return err
		}
		name := merged(header.Name)
		if name == "" || unneededFiles(name) || header.Typeflag == tar.TypeDir && unneededFiles(name+"/") {
			continue
		}
		old, taken := tree[name]
		if taken && header.Typeflag == tar.TypeDir && old.header.Typeflag == tar.TypeDir {
			continue
		}
		if taken {
			return fmt.Errorf("/%s is also in package %s", name, old.owner)
		}
		e := entry{header: header, owner: owner}
		switch header.Typeflag {
		case tar.TypeDir, tar.TypeSymlink:
		case tar.TypeReg:
			if e.content, err = io.ReadAll(archive); err != nil {
				return err
			}
		case tar.TypeLink:
			// In the sorted layer the first name may come later, so each name is a file.
			first, ok := tree[merged(header.Linkname)]
			if !ok {
				return fmt.Errorf("/%s is a hard link to %s, which is missing", name, header.Linkname)
			}
			e = entry{header: first.header, content: first.content, owner: owner}
		default:
			return fmt.Errorf("/%s is neither file, folder nor link", name)
		}
		tree[name] = e
	}
	// What follows the archive's end must be read, or dpkg-deb cannot end.
	_, err := io.Copy(io.Discard, r)
	return err
}
