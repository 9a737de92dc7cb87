package modules

import (
	"golang.org/x/mod/module"

	"github.com/nodeimg/nodeimg/recipes"
)

// incompatible ends the versions of modules that have a major version above 1 and no go.mod (https://go.dev/ref/mod#incompatible-versions).
const incompatible = "+incompatible"

// always is the cgo field of projects that are partly written in C everywhere.
func always(string) bool { return true }

// libseccomp filters system calls in the programs that start containers.
var libseccomp = library{name: "libseccomp", pkg: "libseccomp-dev"}

// runtimeProjects lists what the container runtime consists of, the longest compilation first.
func runtimeProjects(cri recipes.CRI) []project {
	switch cri.Name {
	case recipes.CRIContainerd:
		return []project{containerd(cri.Containerd(), "spec.cri.version"), runc()}
	case recipes.CRIDocker:
		return append(dockerProjects(cri.Version), containerd(cri.Containerd(), ""), runc())
	case recipes.CRICRIO:
		return []project{crio(cri.Version), runc()}
	default:
		return nil
	}
}

func containerd(version, field string) project {
	const root = "github.com/containerd/containerd/v2"
	return project{
		name: "containerd", version: "v" + version, field: field, modules: []string{root},
		stamps: stampVersion(root + "/version.Version"),
		programs: []program{
			{pkg: root + "/cmd/containerd", path: "/usr/local/bin/containerd"},
			{pkg: root + "/cmd/containerd-shim-runc-v2", path: "/usr/local/bin/containerd-shim-runc-v2"},
			{pkg: root + "/cmd/ctr", path: "/usr/local/bin/ctr"},
		},
	}
}

func runc() project {
	return project{
		name: "runc", version: RuncVersion, modules: []string{"github.com/opencontainers/runc"},
		programs: []program{{pkg: "github.com/opencontainers/runc", path: "/usr/local/bin/runc"}},
		tags:     []string{"seccomp", "netgo", "osusergo"},
		// runc enters namespaces in C before Go's runtime starts (libcontainer/nsenter).
		cgo:       always,
		libraries: []library{libseccomp},
	}
}

// dockerProjects are the Docker Engine, its command line and the adapter that makes a CRI runtime of it. The Engine is compiled without
// C, as its image store is containerd's: its own storage drivers and the journald log driver's reader are all that is in C.
func dockerProjects(version string) []project {
	const (
		engine  = "github.com/docker/docker"
		cli     = "github.com/docker/cli"
		adapter = "github.com/Mirantis/cri-dockerd"
	)
	version = "v" + version + incompatible
	return []project{
		{
			name: "docker", version: version, field: "spec.cri.version", modules: []string{engine},
			stamps: stampDocker(engine + "/dockerversion"),
			programs: []program{
				{pkg: engine + "/cmd/dockerd", path: "/usr/local/bin/dockerd"},
				{pkg: engine + "/cmd/docker-proxy", path: "/usr/local/bin/docker-proxy"},
			},
			// hack/make.sh
			tags: []string{"netgo", "osusergo", "static_build"},
		},
		{
			name: "cri-dockerd", version: CRIDockerdVersion, modules: []string{adapter},
			pins:     []module.Version{{Path: "k8s.io/component-helpers", Version: "v0.29.9"}},
			stamps:   stampCRIDockerd(adapter + "/cmd/version"),
			programs: []program{{pkg: adapter, path: "/usr/local/bin/cri-dockerd"}},
		},
		{
			name: "docker-cli", version: version, field: "spec.cri.version", modules: []string{cli},
			stamps:   stampDocker(cli + "/cli/version"),
			programs: []program{{pkg: cli + "/cmd/docker", path: "/usr/local/bin/docker"}},
			// scripts/build/.variables
			tags: []string{"osusergo"},
		},
	}
}

// crio is CRI-O with pinns, the program that makes and keeps the namespaces of a pod.
func crio(version string) project {
	const root = "github.com/cri-o/cri-o"
	return project{
		name: "cri-o", version: "v" + version, field: "spec.cri.version", modules: []string{root},
		stamps: stampCRIO(root + "/internal/version"),
		programs: []program{
			{pkg: root + "/cmd/crio", path: "/usr/local/bin/crio"},
			// The flags are those of pinns/Makefile without the warnings, which a newer compiler may have more of.
			{pkg: root + "/pinns/src", own: "pinns", path: "/usr/local/bin/pinns", cflags: []string{"-std=c99", "-O3", "-static", "-s"}},
		},
		// Those of upstream's static build (nix/derivation.nix), without apparmor and selinux, and with signatures checked in Go rather than
		// by gpgme.
		tags:      []string{"static", "netgo", "osusergo", "exclude_graphdriver_btrfs", "seccomp", "containers_image_openpgp"},
		cgo:       always,
		libraries: []library{libseccomp},
	}
}
