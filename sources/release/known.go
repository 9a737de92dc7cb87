package release

import (
	"context"

	"github.com/opencontainers/go-digest"

	"github.com/nodeimg/nodeimg/internal/fetch"
	"github.com/nodeimg/nodeimg/recipes"
)

// knownSums are checksums of archives whose projects publish none, by URL. Each is one that two or more public projects recorded
// independently: Docker's for x86_64 stands in minikube (deploy/iso/minikube-iso/arch/x86_64/package/docker-bin/docker-bin.hash) and in
// packages that repack the archive, that for aarch64 in two such packages; cri-dockerd's stand in Kubespray
// (roles/kubespray_defaults/vars/main/checksums.yml, v2.31.0).
var knownSums = map[string]digest.Digest{
	dockerServer + "/linux/static/stable/x86_64/docker-28.0.4.tgz":                                "sha256:6b130fa5fb13516620d5ece0b63f63a495cede428bb2f9e24449022e9d72e0cb",
	dockerServer + "/linux/static/stable/aarch64/docker-28.0.4.tgz":                               "sha256:d3291093e8ed576ed9e237b24dc4556a9ed21ff25d4c26578df612cb6fe0480f",
	githubServer + "/Mirantis/cri-dockerd/releases/download/v0.3.24/cri-dockerd-0.3.24.amd64.tgz": "sha256:dd4b7f514c248a3aaca398f467430a4c58aae9a77ea8b96a2f5b5d6fba0948d1",
	githubServer + "/Mirantis/cri-dockerd/releases/download/v0.3.24/cri-dockerd-0.3.24.arm64.tgz": "sha256:c783a03735887c4a8fc894bd4cf7a1c0defef3ecf50a4d79ff31eed45c26b17e",
}

// knownDocker is the version of the Docker Engine that knownSums has.
const knownDocker = recipes.ReleasedDockerVersion

// CheckRuntime reports, before anything is downloaded, that nobody vouches for a download of the container runtime. The error is a
// *recipes.InputError about spec.cri.version.
func CheckRuntime(cri recipes.CRI, platform string) error {
	for _, d := range runtimeDownloads(cri, architecture(platform)) {
		if err := d.vouched(); err != nil {
			return err
		}
	}
	return nil
}

// vouched reports that the download has no checksum.
func (d download) vouched() error {
	if d.known != "" || d.checksums != "" {
		return nil
	}
	return recipes.InputErrorf("the project %s publishes no checksums, and nodeimg knows none for its version %s (%s); "+
		"use kubernetes.source modules, which compiles Docker against the Go checksum database, or cri.version %s on amd64 or arm64, whose checksums are known",
		d.project, d.version, d.url, knownDocker)
}

// sum is the sha256 that the file called name has to have.
func (d download) sum(ctx context.Context, client *fetch.Client, name string) (digest.Digest, error) {
	if d.known != "" {
		return d.known, nil
	}
	if err := d.vouched(); err != nil {
		return "", err
	}
	return publishedSum(ctx, client, d.checksums, name)
}
