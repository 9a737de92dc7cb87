package modules

import (
	_ "embed"
	"fmt"
	"path"
	"strings"

	"golang.org/x/mod/module"
	"golang.org/x/mod/semver"

	"github.com/nodeimg/nodeimg/recipes"
)

// Versions of the projects that a recipe does not choose. They are the newest whose dependencies all have a record in the checksum
// database and that serve every supported Kubernetes version.
const (
	EtcdVersion       = "v3.6.16"
	CoreDNSVersion    = "v1.15.0"
	RuncVersion       = "v1.5.2"
	CNIPluginsVersion = "v1.9.1"
	// FlannelPluginVersion is the last release of the CNI plugins that contains the flannel plugin; it speaks CNI up to 0.4.0.
	FlannelPluginVersion = "v0.9.1"
	FlannelVersion       = "v0.28.4"
	// LocalPathVersion is that of the provisioner of volumes on the nodes' own disks.
	LocalPathVersion = "v0.0.30"
	CRIToolsVersion  = "v1.36.0"
	// CRIDockerdVersion is the adapter through which the kubelet speaks to the Docker Engine.
	CRIDockerdVersion = "v0.4.0"
	// PauseVersion counts the versions of nodeimg's own pause program.
	PauseVersion = "v1.0.0"
)

// pauseSource, coreDNSSource and kubeadmSource are the main packages that are nodeimg's own.
var (
	//go:embed pause/main.go
	pauseSource string
	//go:embed _coredns/main.go
	coreDNSSource string
	//go:embed _kubeadm/main.go
	kubeadmSource string
)

// project is a set of programs that one "go build" compiles.
type project struct {
	// name and version as parts name them; a version as the proxy's, with a leading v.
	name, version string
	// field is the recipe's field that chooses the version; empty when the recipe does not.
	field string
	// modules are required at version; the first one's go.mod is the model of the build's.
	modules []string
	// pins replace a dependency whose required version the checksum database has no record of.
	pins []module.Version
	// main is the source of a main package of our own, compiled as package ".".
	main string
	// apart puts main into a module beside the build's, apartModule, as the package of the only program. Then go loads what main imports and no
	// more, as for upstream's main packages; else all requirements of requirements, of which the checksum database may lack a record.
	apart    bool
	programs []program
	// stamps are the linker's -X settings besides version independent ones.
	stamps func(m moduleFact) []string
	tags   []string
	// cgo says whether the architecture (as GOARCH) needs a C compiler; the programs are then linked statically against libc.
	cgo func(arch string) bool
	// libraries are the C libraries that have to be installed.
	libraries []library
}

// apartModule is the module of a main package that is apart.
const apartModule = "nodeimg.dev/apart"

// library is a C library, by its name in pkg-config, with the Debian package that holds its headers and static archive.
type library struct{ name, pkg string }

// program is one main package, or one program in C.
type program struct {
	// pkg is the import path; "." for the project's own main package, in which case own is the file's name. For a program in C it is the
	// folder of the project's first module that holds the sources, written as an import path, and own the program's name.
	pkg, own string
	// cflags are the C compiler's flags; nil for a main package.
	cflags []string
	// path is where the program lies in the node; empty when only an image holds it.
	path string
}

// name is what "go build" calls the program: the last element of the import path that is not a major version.
func (p program) name() string {
	if p.own != "" {
		return p.own
	}
	prefix, _, _ := module.SplitPathVersion(p.pkg)
	return path.Base(prefix)
}

// origin is where the program's code comes from: its package, or the module that a main package of our own belongs to.
func (p program) origin(of project) string {
	if of.apart {
		return of.modules[0]
	}
	return p.pkg
}

// image is a container image made of compiled programs.
type image struct {
	reference string
	role      recipes.ImageRole
	// title and version for the image's annotations.
	title, version string
	files          []imageFile
	// accounts adds passwd, group, nsswitch.conf and /tmp; tools puts the files on top of the tools layer.
	accounts, tools bool
	entrypoint      []string
	user            string
}

// imageFile is one program in an image.
type imageFile struct {
	// program is "project/program".
	program string
	path    string
	// bindService gives the program the file capability cap_net_bind_service=+ep.
	bindService bool
}

// ownTag marks tags that upstream never published. An upstream tag is used only when the image's program was compiled from exactly that
// version's sources; etcd's upstream tags carry an image revision that is not in the sources (3.6.5-0), our CoreDNS has fewer plugins
// and pause is our own, so these end in -nodeimg. Being pre-releases in the sense of semver, they still parse where kubeadm
// compares versions (k8s.io/kubernetes/cmd/kubeadm/app/phases/etcd/local.go).
const ownTag = "-nodeimg"

// projectsFor lists what req needs, the longest compilation first.
func projectsFor(req Request) []project {
	kubernetes := project{
		name: "kubernetes", version: req.Kubernetes, field: "spec.kubernetes.version", modules: []string{"k8s.io/kubernetes"}, stamps: stampKubernetes,
		programs: []program{
			{pkg: "k8s.io/kubernetes/cmd/kubelet", path: "/usr/bin/kubelet"},
			{pkg: "k8s.io/kubernetes/cmd/kubectl", path: "/usr/bin/kubectl"},
			{pkg: "k8s.io/kubernetes/cmd/kube-apiserver"},
			{pkg: "k8s.io/kubernetes/cmd/kube-controller-manager"},
			{pkg: "k8s.io/kubernetes/cmd/kube-scheduler"},
			{pkg: "k8s.io/kubernetes/cmd/kube-proxy"},
		},
	}
	kubeadm := project{
		name: "kubeadm", version: req.Kubernetes, field: kubernetes.field, modules: kubernetes.modules,
		stamps: func(m moduleFact) []string {
			return append(stampKubernetes(m), "main.etcdTag="+strings.TrimPrefix(EtcdVersion, "v")+ownTag, "main.dnsTag="+CoreDNSVersion+ownTag)
		},
		main: kubeadmMain(req.Kubernetes), apart: true, programs: []program{{pkg: apartModule + "/kubeadm", path: "/usr/bin/kubeadm"}},
	}
	etcd := project{
		// The module etcdutl depends on the server, so that its requirements cover all three.
		name: "etcd", version: EtcdVersion,
		modules: []string{"go.etcd.io/etcd/etcdutl/v3", "go.etcd.io/etcd/server/v3", "go.etcd.io/etcd/etcdctl/v3"},
		programs: []program{
			{pkg: "go.etcd.io/etcd/server/v3"},
			{pkg: "go.etcd.io/etcd/etcdctl/v3"},
			{pkg: "go.etcd.io/etcd/etcdutl/v3"},
		},
	}
	coreDNS := project{
		name: "coredns", version: CoreDNSVersion, modules: []string{"github.com/coredns/coredns"},
		main: coreDNSSource, programs: []program{{pkg: ".", own: "coredns"}},
	}
	criTools := project{
		name: "cri-tools", version: CRIToolsVersion, modules: []string{"sigs.k8s.io/cri-tools"},
		stamps:   stampVersion("sigs.k8s.io/cri-tools/pkg/version.Version"),
		programs: []program{{pkg: "sigs.k8s.io/cri-tools/cmd/crictl", path: "/usr/local/bin/crictl"}},
	}
	pause := project{name: "pause", version: PauseVersion, main: pauseSource, programs: []program{{pkg: ".", own: "pause"}}}

	projects := append([]project{kubernetes}, runtimeProjects(req.CRI)...)
	projects = append(projects, kubeadm, coreDNS, etcd, cniPlugins(), criTools, pause)
	if req.CNI == recipes.CNIFlannel {
		projects = append(projects, flannelProjects()...)
	}
	if req.Storage == recipes.StorageLocalPath {
		projects = append(projects, localPath())
	}
	return projects
}

// kubeadmMain is kubeadm's main package for a version of Kubernetes. Before v1.34 the function that ends the program was another one.
func kubeadmMain(kubernetes string) string {
	if semver.Compare(kubernetes, "v1.34.0-alpha") >= 0 {
		return kubeadmSource
	}
	return strings.NewReplacer("kubeadm/app/util/errors", "kubeadm/app/util", "HandleError", "CheckErr").Replace(kubeadmSource)
}

// cniPlugins are the reference plugins for Linux.
func cniPlugins() project {
	const root = "github.com/containernetworking/plugins"
	p := project{name: "cni-plugins", version: CNIPluginsVersion, modules: []string{root}, stamps: stampVersion(root + "/pkg/utils/buildversion.BuildVersion")}
	for _, plugin := range []string{
		"ipam/dhcp", "ipam/host-local", "ipam/static",
		"main/bridge", "main/dummy", "main/host-device", "main/ipvlan", "main/loopback", "main/macvlan", "main/ptp", "main/tap", "main/vlan",
		"meta/bandwidth", "meta/firewall", "meta/portmap", "meta/sbr", "meta/tuning", "meta/vrf",
	} {
		p.programs = append(p.programs, program{pkg: root + "/plugins/" + plugin, path: "/opt/cni/bin/" + path.Base(plugin)})
	}
	return p
}

func flannelProjects() []project {
	const plugins = "github.com/containernetworking/plugins"
	const flannel = "github.com/flannel-io/flannel"
	return []project{
		{
			name: "flannel", version: FlannelVersion, modules: []string{flannel},
			pins:     []module.Version{{Path: "github.com/tencentcloud/tencentcloud-sdk-go/tencentcloud/common", Version: "v1.3.103"}},
			stamps:   stampVersion(flannel + "/pkg/version.Version"),
			programs: []program{{pkg: flannel}},
			tags:     []string{"netgo", "osusergo"},
			// Only the udp backend is written in C, and that only exists on amd64 (pkg/backend/udp/cproxy_amd64.go).
			cgo: func(arch string) bool { return arch == "amd64" },
		},
		{
			name: "flannel-cni", version: FlannelPluginVersion, modules: []string{plugins},
			stamps:   stampVersion(plugins + "/pkg/utils/buildversion.BuildVersion"),
			programs: []program{{pkg: plugins + "/plugins/meta/flannel", path: "/opt/cni/bin/flannel"}},
		},
	}
}

// localPath makes volumes of folders of the nodes.
func localPath() project {
	const root = "github.com/rancher/local-path-provisioner"
	return project{
		name: "local-path-provisioner", version: LocalPathVersion, modules: []string{root},
		stamps: stampVersion("main.VERSION"), programs: []program{{pkg: root}},
	}
}

// LocalPathImage is what the image of the provisioner is called (its deploy/local-path-storage.yaml).
const LocalPathImage = "docker.io/rancher/local-path-provisioner:" + LocalPathVersion

// imagesFor lists the images that req needs. Paths of programs are upstream's: kubeadm's manifests rely on them.
func imagesFor(req Request) []image {
	component := func(name string, bindService bool) image {
		return image{
			reference: "registry.k8s.io/" + name + ":" + kubernetesTag(req.Kubernetes), role: recipes.RoleControlPlane,
			title: name, version: req.Kubernetes, accounts: true, entrypoint: []string{"/usr/local/bin/" + name},
			files: []imageFile{{program: "kubernetes/" + name, path: "/usr/local/bin/" + name, bindService: bindService}},
		}
	}
	proxy := component("kube-proxy", false)
	proxy.accounts, proxy.tools = false, true
	images := []image{
		// Upstream sets the capability so that the API server can listen on 443 as an ordinary user
		// (build/server-image/kube-apiserver/Dockerfile).
		component("kube-apiserver", true),
		component("kube-controller-manager", false),
		component("kube-scheduler", false),
		proxy,
		{
			reference: fmt.Sprintf("registry.k8s.io/etcd:%s%s", strings.TrimPrefix(EtcdVersion, "v"), ownTag), role: recipes.RoleEtcd,
			title: "etcd", version: EtcdVersion, accounts: true, entrypoint: []string{"/usr/local/bin/etcd"},
			files: []imageFile{
				{program: "etcd/server", path: "/usr/local/bin/etcd"},
				{program: "etcd/etcdctl", path: "/usr/local/bin/etcdctl"},
				{program: "etcd/etcdutl", path: "/usr/local/bin/etcdutl"},
			},
		},
		{
			reference: "registry.k8s.io/coredns/coredns:" + CoreDNSVersion + ownTag, role: recipes.RoleDNS,
			title: "coredns", version: CoreDNSVersion, accounts: true, entrypoint: []string{"/coredns"}, user: "65532:65532",
			files: []imageFile{{program: "coredns/coredns", path: "/coredns", bindService: true}},
		},
		{
			reference: "registry.k8s.io/pause:" + strings.TrimPrefix(PauseVersion, "v") + ownTag, role: recipes.RoleSandbox,
			title: "pause", version: PauseVersion, entrypoint: []string{"/pause"}, user: "65535:65535",
			files: []imageFile{{program: "pause/pause", path: "/pause"}},
		},
	}
	if req.CNI == recipes.CNIFlannel {
		images = append(images, image{
			reference: "ghcr.io/flannel-io/flannel:" + FlannelVersion, role: recipes.RoleCNI,
			title: "flannel", version: FlannelVersion, tools: true, entrypoint: []string{"/opt/bin/flanneld"},
			files: []imageFile{{program: "flannel/flannel", path: "/opt/bin/flanneld"}},
		})
	}
	if req.Storage == recipes.StorageLocalPath {
		// The tools are there for the pods that make and remove the folders: they run this image too.
		images = append(images, image{
			reference: LocalPathImage, role: recipes.RoleStorage,
			title: "local-path-provisioner", version: LocalPathVersion, tools: true, entrypoint: []string{"/usr/bin/local-path-provisioner"},
			files: []imageFile{{program: "local-path-provisioner/local-path-provisioner", path: "/usr/bin/local-path-provisioner"}},
		})
	}
	return images
}

// kubernetesTag is version as a tag; kubeadm replaces the plus sign in the same way (KubernetesVersionToImageTag).
func kubernetesTag(version string) string { return strings.ReplaceAll(version, "+", "_") }
