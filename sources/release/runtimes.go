package release

import (
	"fmt"
	"strings"

	"golang.org/x/mod/semver"

	"github.com/nodeimg/nodeimg/recipes"
	"github.com/nodeimg/nodeimg/sources/modules"
)

// criDockerdVersion is the newest cri-dockerd whose checksum is known, see knownSums.
const criDockerdVersion = "v0.3.24"

// runtimeDownloads lists what the container runtime consists of.
func runtimeDownloads(cri recipes.CRI, arch string) []download {
	switch cri.Name {
	case recipes.CRIContainerd:
		return []download{containerd(cri.Containerd(), arch), runc(arch)}
	case recipes.CRIDocker:
		return []download{docker(cri.Version, arch), criDockerd(arch), containerd(cri.Containerd(), arch), runc(arch)}
	case recipes.CRICRIO:
		return []download{crio(cri.Version, arch), runc(arch)}
	default:
		return nil
	}
}

func containerd(version, arch string) download {
	url := fmt.Sprintf("%s/containerd/containerd/releases/download/v%s/containerd-%s-linux-%s.tar.gz", githubServer, version, version, arch)
	return download{
		project: "containerd", version: "v" + version, url: url, checksums: url + ".sha256sum",
		programs: localPrograms("bin/", "containerd", "containerd-shim-runc-v2", "ctr"),
	}
}

func runc(arch string) download {
	base := fmt.Sprintf("%s/opencontainers/runc/releases/download/%s/", githubServer, modules.RuncVersion)
	return download{
		project: "runc", version: modules.RuncVersion, url: base + "runc." + arch, checksums: base + "runc.sha256sum",
		programs: []program{{path: "/usr/local/bin/runc"}},
	}
}

// dockerArchitectures are the Docker download server's names of architectures, where they are not Go's.
var dockerArchitectures = map[string]string{"amd64": "x86_64", "arm64": "aarch64"}

// docker is the archive of Docker's static programs; the containerd and runc in it are older than the node's own.
func docker(version, arch string) download {
	if name, ok := dockerArchitectures[arch]; ok {
		arch = name
	}
	url := fmt.Sprintf("%s/linux/static/stable/%s/docker-%s.tgz", dockerServer, arch, version)
	return download{
		project: "docker", version: "v" + version, url: url, known: knownSums[url],
		programs: localPrograms("docker/", "docker", "dockerd", "docker-proxy"),
	}
}

func criDockerd(arch string) download {
	bare := strings.TrimPrefix(criDockerdVersion, "v")
	url := fmt.Sprintf("%s/Mirantis/cri-dockerd/releases/download/%s/cri-dockerd-%s.%s.tgz", githubServer, criDockerdVersion, bare, arch)
	return download{
		project: "cri-dockerd", version: criDockerdVersion, url: url, known: knownSums[url],
		programs: localPrograms("cri-dockerd/", "cri-dockerd"),
	}
}

// crio is CRI-O's bundle (scripts/bundle/build in https://github.com/cri-o/packaging). Bundles older than 1.31 call conmon crio-conmon.
func crio(version, arch string) download {
	url := fmt.Sprintf("%s/cri-o/artifacts/cri-o.%s.v%s.tar.gz", storageServer, arch, version)
	conmon := "conmon"
	if semver.Compare("v"+version, "v1.31.0") < 0 {
		conmon = "crio-conmon"
	}
	return download{
		project: "cri-o", version: "v" + version, url: url, checksums: url + ".sha256sum",
		programs: append(localPrograms("cri-o/bin/", "crio", "pinns"), program{entry: "cri-o/bin/" + conmon, path: "/usr/local/bin/conmon"}),
	}
}

// localPrograms are programs in a folder of an archive that go to /usr/local/bin.
func localPrograms(folder string, names ...string) []program {
	programs := make([]program, len(names))
	for i, name := range names {
		programs[i] = program{entry: folder + name, path: "/usr/local/bin/" + name}
	}
	return programs
}
