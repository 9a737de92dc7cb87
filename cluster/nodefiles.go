package cluster

import (
	"context"
	"encoding/pem"
	"fmt"
	"maps"
	"net/url"
	"os"
	"path"
	"slices"
	"strings"

	"github.com/pelletier/go-toml/v2"
	"golang.org/x/mod/semver"

	"github.com/nodeimg/nodeimg/internal/dockerengine"
	"github.com/nodeimg/nodeimg/recipes"
)

// certificatesPath is where update-ca-certificates(8) finds the cluster's authorities in a node.
const certificatesPath = "/usr/local/share/ca-certificates/nodeimg-cluster"

// runtimeUnits are the systemd units of the container runtimes, which read the authorities when they start.
var runtimeUnits = map[recipes.CRIName]string{recipes.CRIContainerd: "containerd", recipes.CRIDocker: "docker", recipes.CRICRIO: "crio"}

// readCertificates reads the files of a description; each certificate comes back by itself, as PEM.
func readCertificates(files []string) ([]string, error) {
	var certificates []string
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			return nil, fmt.Errorf("reading certificates: %w", err)
		}
		certificates = append(certificates, splitCertificates(text)...)
	}
	return certificates, nil
}

// splitCertificates returns each certificate of a PEM text by itself.
func splitCertificates(text []byte) []string {
	var certificates []string
	for block, rest := pem.Decode(text); block != nil; block, rest = pem.Decode(rest) {
		if block.Type == "CERTIFICATE" {
			certificates = append(certificates, string(pem.EncodeToMemory(&pem.Block{Type: block.Type, Bytes: block.Bytes})))
		}
	}
	return certificates
}

// startFiles are what a node of the image begins with: the authorities that it trusts, and mirrors of registries.
func startFiles(ctx context.Context, engine *dockerengine.Engine, image string, certificates []string, mirrors map[string][]string) ([]dockerengine.File, error) {
	if len(certificates) == 0 && len(mirrors) == 0 {
		return nil, nil
	}
	found, err := engine.Inspect(ctx, image)
	if err != nil {
		return nil, err
	}
	name, version, _ := strings.Cut(found.Labels[recipes.LabelCRI], " ")
	cri := recipes.CRIName(name)
	if runtimeUnits[cri] == "" {
		return nil, recipes.InputErrorf("%s has no container runtime that takes registryMirrors or caCertificates: found %q in its label %s", image, name, recipes.LabelCRI)
	}
	files, err := mirrorFiles(cri, version, mirrors)
	if err != nil || len(certificates) == 0 {
		return files, err
	}
	for i, text := range certificates {
		files = append(files, dockerengine.File{Path: fmt.Sprintf("%s/%d.crt", certificatesPath, i+1), Mode: 0o644, Content: []byte(text)})
	}
	// Before each start, so that nothing of the runtime begins without them.
	dropIn := "[Service]\nExecStartPre=/usr/sbin/update-ca-certificates\n"
	return append(files, dockerengine.File{
		Path: "/etc/systemd/system/" + runtimeUnits[cri] + ".service.d/nodeimg-certificates.conf", Mode: 0o644, Content: []byte(dropIn),
	}), nil
}

// firstDockerHosts is the first Docker Engine that reads hosts.toml files, as containerd does (github.com/docker/docker, daemon/hosts.go). Older
// ones know mirrors of docker.io alone.
const firstDockerHosts = "28.0.0"

// mirrorFiles are the runtime's configuration of mirrors.
func mirrorFiles(cri recipes.CRIName, version string, mirrors map[string][]string) ([]dockerengine.File, error) {
	switch {
	case len(mirrors) == 0:
		return nil, nil
	case cri == recipes.CRIContainerd:
		return hostsFiles("/etc/containerd/certs.d", mirrors)
	case cri == recipes.CRICRIO:
		return crioMirrors(mirrors)
	case semver.Compare("v"+version, "v"+firstDockerHosts) < 0:
		return nil, recipes.InputErrorf("spec.registryMirrors: nodes with the Docker Engine %s do not know mirrors of any registry; choose an image with Docker %s or newer, "+
			"containerd or CRI-O", version, firstDockerHosts)
	default:
		return hostsFiles("/etc/docker/certs.d", mirrors)
	}
}

// hostsFiles writes the hosts.toml of each registry below the folder (containerd, docs/hosts.md). A mirror's path goes before the names of
// repositories, as in recipes.
func hostsFiles(folder string, mirrors map[string][]string) ([]dockerengine.File, error) {
	var files []dockerengine.File
	for _, host := range slices.Sorted(maps.Keys(mirrors)) {
		var text strings.Builder
		for _, mirror := range mirrors[host] {
			u, err := url.Parse(mirror)
			if err != nil {
				return nil, recipes.InputErrorf("spec.registryMirrors[%s]: %v", host, err)
			}
			u.Path = path.Join("/v2", u.Path)
			// By hand: mirrors are tried in their order, and an encoder would sort them.
			fmt.Fprintf(&text, "[host.%q]\n  capabilities = [\"pull\", \"resolve\"]\n  override_path = true\n", u)
		}
		files = append(files, dockerengine.File{Path: folder + "/" + host + "/hosts.toml", Mode: 0o644, Content: []byte(text.String())})
	}
	return files, nil
}

// crioMirrors writes a part of containers-registries.conf(5).
func crioMirrors(mirrors map[string][]string) ([]dockerengine.File, error) {
	type mirror struct {
		Location string `toml:"location"`
		Insecure bool   `toml:"insecure,omitempty"`
	}
	type registry struct {
		Location string   `toml:"location"`
		Mirrors  []mirror `toml:"mirror"`
	}
	var all struct {
		Registries []registry `toml:"registry"`
	}
	for _, host := range slices.Sorted(maps.Keys(mirrors)) {
		r := registry{Location: host}
		for _, text := range mirrors[host] {
			u, err := url.Parse(text)
			if err != nil {
				return nil, recipes.InputErrorf("spec.registryMirrors[%s]: %v", host, err)
			}
			r.Mirrors = append(r.Mirrors, mirror{Location: strings.TrimSuffix(u.Host+u.Path, "/"), Insecure: u.Scheme == "http"})
		}
		all.Registries = append(all.Registries, r)
	}
	text, err := toml.Marshal(all)
	if err != nil {
		return nil, fmt.Errorf("encoding the mirrors of registries: %w", err)
	}
	return []dockerengine.File{{Path: "/etc/containers/registries.conf.d/50-nodeimg.conf", Mode: 0o644, Content: text}}, nil
}
