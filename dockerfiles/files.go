package dockerfiles

import (
	"bytes"
	"cmp"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strconv"
	"strings"
	"text/template"

	"github.com/Masterminds/semver/v3"
	"github.com/distribution/reference"

	"github.com/nodeimg/nodeimg/recipes"
)

//go:embed node
var embedded embed.FS

var templates = template.Must(template.ParseFS(embedded, "node/templates/*.tmpl"))

// PodSubnet is the pod network of the shipped kubeadm configuration and pod network manifest: flannel's customary default.
const PodSubnet = "10.244.0.0/16"

// Paths in the node of what is rendered for each recipe. /kind is where stock kind looks (contracts/kind-node-image.md).
const (
	kubeadmPath     = "usr/share/nodeimg/kubeadm.yaml"
	cniPath         = "usr/share/nodeimg/manifests/cni.yaml"
	cniChoicePath   = "usr/share/nodeimg/cni"
	storagePath     = "usr/share/nodeimg/manifests/storage.yaml"
	containerdPath  = "etc/containerd/config.toml"
	crictlPath      = "etc/crictl.yaml"
	kubeletPath     = "etc/default/kubelet"
	kindVersionPath = "kind/version"
	kindCNIPath     = "kind/manifests/default-cni.yaml"
	kindStoragePath = "kind/manifests/default-storage.yaml"
)

// embeddedFiles returns the embedded files below dir, with prefix in front of their paths. Shell files are executable, nothing else is.
func embeddedFiles(dir, prefix string) ([]ContextFile, error) {
	var files []ContextFile
	err := fs.WalkDir(embedded, dir, func(name string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		content, err := embedded.ReadFile(name)
		if err != nil {
			return err
		}
		files = append(files, contextFile(path.Join(prefix, strings.TrimPrefix(name, dir+"/")), content))
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("reading embedded files: %w", err)
	}
	return files, nil
}

func contextFile(name string, content []byte) ContextFile {
	mode := fs.FileMode(0o644)
	if strings.HasSuffix(name, ".sh") {
		mode = 0o755
	}
	return ContextFile{Path: name, Mode: mode, Content: content, Size: int64(len(content))}
}

// nodeFiles returns the files of the node that nodeimg itself brings: embedded ones, rendered ones and the recipe's CA certificates.
func nodeFiles(recipe recipes.Recipe, lock recipes.Lock, runtime criRuntime) ([]ContextFile, error) {
	files, err := embeddedFiles("node/files", "")
	if err != nil {
		return nil, err
	}
	for _, dir := range runtime.files {
		own, err := embeddedFiles("node/"+dir, "")
		if err != nil {
			return nil, err
		}
		files = append(files, own...)
	}
	sandbox, ok := lock.Image(recipes.RoleSandbox)
	if !ok {
		return nil, errors.New("the lock names no sandbox image; resolve the recipe again")
	}
	add := func(name, template string, values any) error {
		var b bytes.Buffer
		if err := templates.ExecuteTemplate(&b, template, values); err != nil {
			return fmt.Errorf("rendering %s: %w", name, err)
		}
		files = append(files, contextFile(name, b.Bytes()))
		return nil
	}
	kubeadm, err := kubeadmValues(recipe, lock)
	if err != nil {
		return nil, err
	}
	kubeadm.CRISocket = runtime.socket
	values := runtime.values(sandbox.Reference)
	err = errors.Join(
		add(kubeadmPath, "kubeadm.yaml.tmpl", kubeadm),
		add(crictlPath, "crictl.yaml.tmpl", values),
		add(kubeletPath, "kubelet.env.tmpl", values),
	)
	for name, template := range runtime.rendered {
		err = errors.Join(err, add(name, template, values))
	}
	if err != nil {
		return nil, err
	}
	files = append(files,
		contextFile(kindVersionPath, []byte(recipe.Spec.Kubernetes.Version+"\n")),
		contextFile(cniChoicePath, []byte(recipe.Spec.CNI.Name+"\n")),
	)
	// Without preload.controlPlane the lock names no image that the manifest could use.
	if _, ok := lock.Image(recipes.RoleCNI); ok && recipe.Spec.CNI.Name == recipes.CNIFlannel {
		values, err := flannel(lock)
		if err != nil {
			return nil, err
		}
		forKind := values
		forKind.ForKind, forKind.PodSubnet = true, "{{ .PodSubnet }}"
		if err := errors.Join(add(cniPath, "flannel.yaml.tmpl", values), add(kindCNIPath, "flannel.yaml.tmpl", forKind)); err != nil {
			return nil, err
		}
	}
	if recipe.Spec.CNI.Name == recipes.CNIBridge {
		if err := add(kindCNIPath, "bridge.yaml.tmpl", nil); err != nil {
			return nil, err
		}
	}
	if image, ok := lock.Image(recipes.RoleStorage); ok {
		if err := errors.Join(add(storagePath, "storage.yaml.tmpl", image), add(kindStoragePath, "storage.yaml.tmpl", image)); err != nil {
			return nil, err
		}
	}
	// Certificates must be there when setup.sh runs; everything else of the user's comes after it.
	for _, f := range lock.Files {
		if isCertificate(f) {
			files = append(files, lockedFile(f))
		}
	}
	slices.SortFunc(files, func(a, b ContextFile) int { return cmp.Compare(a.Path, b.Path) })
	return files, nil
}

func isCertificate(f recipes.LockedFile) bool {
	return path.Dir(f.Target) == recipes.CertificatesPath
}

type imageValues struct{ Repository, Tag string }

type kubeadmTemplate struct {
	Kubernetes, KubeadmAPI, PodSubnet string
	CRISocket                         string
	FailCgroupV1Field                 bool
	Etcd, DNS                         *imageValues
}

func kubeadmValues(recipe recipes.Recipe, lock recipes.Lock) (*kubeadmTemplate, error) {
	version, err := semver.NewVersion(recipe.Spec.Kubernetes.Version)
	if err != nil {
		return nil, fmt.Errorf("parsing Kubernetes version %q: %w", recipe.Spec.Kubernetes.Version, err)
	}
	values := &kubeadmTemplate{Kubernetes: recipe.Spec.Kubernetes.Version, KubeadmAPI: "v1beta3", PodSubnet: PodSubnet}
	if version.Minor() >= 31 {
		// Kubernetes 1.31 brought kubeadm's v1beta4 and the kubelet's failCgroupV1 (changelog 1.31).
		values.KubeadmAPI, values.FailCgroupV1Field = "v1beta4", true
	}
	if values.Etcd, err = roleImage(lock, recipes.RoleEtcd); err != nil {
		return nil, err
	}
	if values.DNS, err = roleImage(lock, recipes.RoleDNS); err != nil {
		return nil, err
	}
	return values, nil
}

// roleImage splits a locked image into what kubeadm's imageRepository and imageTag mean: everything before the last path element, and
// the tag.
func roleImage(lock recipes.Lock, role recipes.ImageRole) (*imageValues, error) {
	image, ok := lock.Image(role)
	if !ok {
		return nil, nil
	}
	named, err := reference.ParseNormalizedNamed(image.Reference)
	if err != nil {
		return nil, fmt.Errorf("parsing locked image %q: %w", image.Reference, err)
	}
	tagged, ok := named.(reference.Tagged)
	if !ok {
		return nil, fmt.Errorf("locked image %q has no tag, which kubeadm needs", image.Reference)
	}
	return &imageValues{Repository: path.Dir(named.Name()), Tag: tagged.Tag()}, nil
}

type flannelTemplate struct {
	ForKind                       bool
	PodSubnet, Image, PluginImage string
}

func flannel(lock recipes.Lock) (flannelTemplate, error) {
	values := flannelTemplate{PodSubnet: PodSubnet}
	for _, image := range lock.Images {
		switch {
		case image.Role != recipes.RoleCNI:
		case strings.Contains(image.Reference, "flannel-cni-plugin"):
			values.PluginImage = image.Reference
		default:
			values.Image = image.Reference
		}
	}
	if values.Image == "" {
		return values, errors.New("the lock names no flannel image; resolve the recipe again")
	}
	return values, nil
}

func partFiles(parts []recipes.LockedPart) []ContextFile {
	var files []ContextFile
	for _, part := range parts {
		files = append(files, ContextFile{Path: strings.TrimPrefix(part.Path, "/"), Mode: 0o755, Blob: part.Digest, Size: part.Size})
	}
	return files
}

// packageFiles gives package files the names that apt needs: it tells a file from a package name by the .deb at the end.
func packageFiles(packages []recipes.LockedPackage) []ContextFile {
	var files []ContextFile
	for _, p := range packages {
		version := strings.ReplaceAll(p.Version, ":", "%3a")
		name := fmt.Sprintf("%s_%s_%s.deb", p.Name, version, p.Architecture)
		files = append(files, ContextFile{Path: name, Mode: 0o644, Blob: p.Digest, Size: p.Size})
	}
	slices.SortFunc(files, func(a, b ContextFile) int { return cmp.Compare(a.Path, b.Path) })
	return files
}

// userFiles are the recipe's own files but for its certificates.
func userFiles(locked []recipes.LockedFile) []ContextFile {
	var files []ContextFile
	for _, f := range locked {
		if !isCertificate(f) {
			files = append(files, lockedFile(f))
		}
	}
	return files
}

func lockedFile(f recipes.LockedFile) ContextFile {
	return ContextFile{Path: strings.TrimPrefix(f.Target, "/"), Mode: fileMode(f.Mode), Blob: f.Digest, Size: f.Size, Link: f.Link}
}

// fileMode turns octal permissions, which the recipe's validation has checked, into Go's bits.
func fileMode(octal string) fs.FileMode {
	bits, err := strconv.ParseUint(octal, 8, 12)
	if err != nil {
		return 0o644
	}
	mode := fs.FileMode(bits & 0o777)
	for bit, flag := range map[uint64]fs.FileMode{0o4000: fs.ModeSetuid, 0o2000: fs.ModeSetgid, 0o1000: fs.ModeSticky} {
		if bits&bit != 0 {
			mode |= flag
		}
	}
	return mode
}
