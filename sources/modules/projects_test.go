package modules

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/distribution/reference"
	"github.com/google/go-cmp/cmp"

	"github.com/nodeimg/nodeimg/recipes"
)

// TestTable checks that the images of every kind of request are made of programs that it compiles, at paths and under names that hold.
func TestTable(t *testing.T) {
	for _, req := range []Request{
		{Kubernetes: "v1.34.10", CRI: recipes.CRI{Name: recipes.CRIContainerd, Version: "2.4.2"}, CNI: recipes.CNIFlannel, Storage: recipes.StorageLocalPath},
		{Kubernetes: "v1.36.3", CRI: recipes.CRI{Name: recipes.CRIContainerd, Version: "2.4.2"}, CNI: recipes.CNIBridge, Storage: recipes.StorageNone},
		{Kubernetes: "v1.37.0-rc.1", CNI: recipes.CNIFlannel},
		{Kubernetes: "v1.34.10", CRI: recipes.CRI{Name: recipes.CRIDocker, Version: "28.5.2"}, CNI: recipes.CNIFlannel},
		{Kubernetes: "v1.34.10", CRI: recipes.CRI{Name: recipes.CRICRIO, Version: "1.36.3"}, CNI: recipes.CNIFlannel},
	} {
		t.Run(req.Kubernetes+" "+string(req.CRI.Name), func(t *testing.T) {
			programs, paths := map[string]bool{}, map[string]bool{}
			for _, p := range projectsFor(req) {
				if !strings.HasPrefix(p.version, "v") {
					t.Errorf("project %s has version %q", p.name, p.version)
				}
				for _, prog := range p.programs {
					programs[p.name+"/"+prog.name()] = true
					if prog.path != "" && paths[prog.path] {
						t.Errorf("two programs want %s", prog.path)
					}
					paths[prog.path] = true
				}
			}
			roles := map[recipes.ImageRole]int{}
			for _, img := range imagesFor(req) {
				roles[img.role]++
				named, err := reference.ParseNormalizedNamed(img.reference)
				if err != nil || named.String() != img.reference {
					t.Errorf("reference %s: normalised %v, %v", img.reference, named, err)
				}
				for _, f := range img.files {
					if !programs[f.program] {
						t.Errorf("image %s holds %s, which nothing compiles", img.reference, f.program)
					}
				}
			}
			want := map[recipes.ImageRole]int{recipes.RoleControlPlane: 4, recipes.RoleEtcd: 1, recipes.RoleDNS: 1, recipes.RoleSandbox: 1}
			if req.CNI == recipes.CNIFlannel {
				want[recipes.RoleCNI] = 1
			}
			if req.Storage == recipes.StorageLocalPath {
				want[recipes.RoleStorage] = 1
			}
			if diff := cmp.Diff(want, roles); diff != "" {
				t.Errorf("roles (-want +got):\n%s", diff)
			}
			if got := programs["containerd/containerd"]; got != (req.CRI.Containerd() != "") {
				t.Errorf("containerd compiled: %v", got)
			}
		})
	}
}

// TestRuntimePrograms checks which programs each container runtime brings, at which version.
func TestRuntimePrograms(t *testing.T) {
	for _, test := range []struct {
		cri  recipes.CRI
		want []string
	}{
		{recipes.CRI{Name: recipes.CRIContainerd, Version: "2.4.2"}, []string{
			"containerd v2.4.2 /usr/local/bin/containerd", "containerd v2.4.2 /usr/local/bin/containerd-shim-runc-v2", "containerd v2.4.2 /usr/local/bin/ctr",
			"runc v1.5.2 /usr/local/bin/runc",
		}},
		{recipes.CRI{Name: recipes.CRIDocker, Version: "28.5.2"}, []string{
			"docker v28.5.2 /usr/local/bin/dockerd", "docker v28.5.2 /usr/local/bin/docker-proxy",
			"cri-dockerd v0.4.0 /usr/local/bin/cri-dockerd", "docker-cli v28.5.2 /usr/local/bin/docker",
			"containerd v2.4.2 /usr/local/bin/containerd", "containerd v2.4.2 /usr/local/bin/containerd-shim-runc-v2", "containerd v2.4.2 /usr/local/bin/ctr",
			"runc v1.5.2 /usr/local/bin/runc",
		}},
		{recipes.CRI{Name: recipes.CRICRIO, Version: "1.36.3"}, []string{
			"cri-o v1.36.3 /usr/local/bin/crio", "cri-o v1.36.3 /usr/local/bin/pinns", "runc v1.5.2 /usr/local/bin/runc",
		}},
		{recipes.CRI{}, nil},
	} {
		t.Run(string(test.cri.Name), func(t *testing.T) {
			var got []string
			for _, p := range runtimeProjects(test.cri) {
				parts, _ := lockProject(p, &build{})
				for _, part := range parts {
					got = append(got, part.Name+" "+part.Version+" "+part.Path)
				}
			}
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Errorf("programs (-want +got):\n%s", diff)
			}
		})
	}
}

// TestUpstreamTagsAreTruthful guards the rule that a tag of upstream's is used only for what was compiled from that version alone.
func TestUpstreamTagsAreTruthful(t *testing.T) {
	var names []string
	for _, img := range imagesFor(Request{Kubernetes: "v1.34.10", CNI: recipes.CNIFlannel, Storage: recipes.StorageLocalPath}) {
		names = append(names, img.reference)
	}
	slices.Sort(names)
	want := []string{
		"docker.io/rancher/local-path-provisioner:v0.0.30",
		"ghcr.io/flannel-io/flannel:v0.28.4",
		"registry.k8s.io/coredns/coredns:v1.15.0-nodeimg",
		"registry.k8s.io/etcd:3.6.16-nodeimg",
		"registry.k8s.io/kube-apiserver:v1.34.10",
		"registry.k8s.io/kube-controller-manager:v1.34.10",
		"registry.k8s.io/kube-proxy:v1.34.10",
		"registry.k8s.io/kube-scheduler:v1.34.10",
		"registry.k8s.io/pause:1.0.0-nodeimg",
	}
	if diff := cmp.Diff(want, names); diff != "" {
		t.Errorf("references (-want +got):\n%s", diff)
	}
}

// TestKubeadmMain checks that kubeadm ends as upstream's of the same version does; the function was moved in v1.34.
func TestKubeadmMain(t *testing.T) {
	for version, want := range map[string]string{
		"v1.33.1":        "utilerrors \"k8s.io/kubernetes/cmd/kubeadm/app/util\"\nutilerrors.CheckErr(app.Run())",
		"v1.34.0-beta.0": "utilerrors \"k8s.io/kubernetes/cmd/kubeadm/app/util/errors\"\nutilerrors.HandleError(app.Run())",
		"v1.36.3":        "utilerrors \"k8s.io/kubernetes/cmd/kubeadm/app/util/errors\"\nutilerrors.HandleError(app.Run())",
	} {
		source := kubeadmMain(version)
		for line := range strings.Lines(want) {
			if !strings.Contains(source, strings.TrimSpace(line)+"\n") {
				t.Errorf("%s: the main package lacks %s", version, line)
			}
		}
	}
}

func TestLdflags(t *testing.T) {
	released := time.Date(2026, 7, 22, 22, 5, 6, 0, time.UTC)
	for _, test := range []struct {
		name string
		p    project
		m    moduleFact
		cgo  bool
		want string
	}{
		{
			name: "kubernetes", p: projectsFor(Request{Kubernetes: "v1.36.3"})[0], m: moduleFact{Version: "v1.36.3", Time: released},
			want: "-s -w" +
				" -X k8s.io/component-base/version.gitVersion=v1.36.3 -X k8s.io/component-base/version.gitMajor=1 -X k8s.io/component-base/version.gitMinor=36" +
				" -X k8s.io/component-base/version.gitTreeState=archive -X k8s.io/component-base/version.gitCommit=unknown -X k8s.io/component-base/version.buildDate=2026-07-22T22:05:06Z" +
				" -X k8s.io/client-go/pkg/version.gitVersion=v1.36.3 -X k8s.io/client-go/pkg/version.gitMajor=1 -X k8s.io/client-go/pkg/version.gitMinor=36" +
				" -X k8s.io/client-go/pkg/version.gitTreeState=archive -X k8s.io/client-go/pkg/version.gitCommit=unknown -X k8s.io/client-go/pkg/version.buildDate=2026-07-22T22:05:06Z",
		},
		{name: "no stamp", p: project{modules: []string{"example.com/m"}}, want: "-s -w"},
		{
			name: "stamp and cgo", p: project{modules: []string{"example.com/m"}, stamps: stampVersion("example.com/m.V")}, m: moduleFact{Version: "v1.2.3"}, cgo: true,
			want: "-s -w -X example.com/m.V=v1.2.3 -linkmode external -extldflags -static",
		},
		{
			name: "Docker Engine", p: dockerProjects("28.5.2")[0], m: moduleFact{Version: "v28.5.2+incompatible", Time: released},
			want: "-s -w -X github.com/docker/docker/dockerversion.Version=28.5.2 -X github.com/docker/docker/dockerversion.GitCommit=unknown" +
				" -X github.com/docker/docker/dockerversion.BuildTime=2026-07-22T22:05:06Z",
		},
		{
			name: "cri-dockerd", p: dockerProjects("28.5.2")[1], m: moduleFact{Version: "v0.4.0", Time: released},
			want: "-s -w -X github.com/Mirantis/cri-dockerd/cmd/version.Version=0.4.0 -X github.com/Mirantis/cri-dockerd/cmd/version.GitCommit=unknown",
		},
		{
			name: "CRI-O", p: crio("1.36.3"), m: moduleFact{Version: "v1.36.3", Time: released}, cgo: true,
			want: "-s -w -X github.com/cri-o/cri-o/internal/version.buildDate=2026-07-22T22:05:06Z -X github.com/cri-o/cri-o/internal/version.buildCommit=unknown" +
				" -linkmode external -extldflags -static",
		},
		{name: "own program", p: project{version: "v1.0.0"}, want: "-s -w -X main.version=v1.0.0"},
	} {
		t.Run(test.name, func(t *testing.T) {
			if diff := cmp.Diff(test.want, ldflags(test.p, test.m, test.cgo)); diff != "" {
				t.Errorf("ldflags (-want +got):\n%s", diff)
			}
		})
	}
}
