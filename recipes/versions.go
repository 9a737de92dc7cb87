package recipes

import (
	"fmt"
	"regexp"
	"strings"

	"github.com/Masterminds/semver/v3"

	"github.com/nodeimg/nodeimg/internal/strictyaml"
)

// minimumKubernetes is the oldest minor release that nodeimg supports: the kubeadm configuration and the kubelet flags it ships are
// understood from there on.
const minimumKubernetes = "v1.28.0"

// requirement says that Kubernetes from one minor release on needs at least some version of containerd.
type requirement struct {
	kubernetes, containerd, reason string
}

// requirements is ordered from strict to lax; the first that applies decides.
var requirements = []requirement{
	// Kubernetes v1.35 is the last release that supports containerd 1.x (its release announcement, "final call for containerd v1.X").
	{"v1.36.0", "2.0.0", "which is the first to serve that kubelet"},
	// From v1.26 the kubelet registers only with runtimes that speak the v1 CRI API (https://kubernetes.io/docs/concepts/containers/cri/);
	// containerd does from 1.6 on (the version matrix in its RELEASES.md).
	{"v1.26.0", "1.6.0", "which is the first with the v1 CRI API"},
}

// oldestContainerd is the oldest release that reads the configuration of the build step that pulls (version 3; containerd 2.0) and the
// databases that nodeimg writes.
const oldestContainerd = "2.0.0"

// oldestRuntimes are the oldest minor releases of the other runtimes that nodeimg can preload images for: the Docker Engine whose image
// store is containerd's and whose CRI comes from cri-dockerd v0.4, and the CRI-O that reads what its storage library has written since
// v1.55.
var oldestRuntimes = map[CRIName]string{CRIDocker: "28.0.0", CRICRIO: "1.30.0"}

var (
	kubernetesVersion = regexp.MustCompile(`^v(0|[1-9]\d*)\.(0|[1-9]\d*)\.(0|[1-9]\d*)(-[0-9A-Za-z.-]+)?$`)
	runtimeVersion    = regexp.MustCompile(`^(0|[1-9]\d*)\.(0|[1-9]\d*)\.(0|[1-9]\d*)(-[0-9A-Za-z.-]+)?$`)
)

// parseVersion parses a version with or without leading v that has the form wanted, else returns nil.
func parseVersion(s string, form *regexp.Regexp) *semver.Version {
	if !form.MatchString(s) {
		return nil
	}
	v, err := semver.NewVersion(s)
	if err != nil {
		return nil
	}
	return v
}

// atLeast compares minor releases, so that v1.36.0-rc.0 counts as v1.36.
func atLeast(v *semver.Version, minimum string) bool {
	m := semver.MustParse(minimum)
	return v.Major() > m.Major() || v.Major() == m.Major() && v.Minor() >= m.Minor()
}

func checkKubernetesVersion(c *checker) {
	const field = "spec.kubernetes.version"
	text := c.Kubernetes.Version
	v := parseVersion(text, kubernetesVersion)
	if v == nil {
		suggestion := ""
		if parseVersion("v"+text, kubernetesVersion) != nil {
			suggestion = fmt.Sprintf("; did you mean v%s?", text)
		}
		c.report.Add(field, "found %s, expected a full version with a leading v, such as v1.34.10%s", strictyaml.Quote(text), suggestion)
	} else if !atLeast(v, minimumKubernetes) {
		c.report.Add(field, "found %s, expected %s or newer", text, strings.TrimSuffix(minimumKubernetes, ".0"))
	}
}

func checkCRIVersion(c *checker) {
	const field = "spec.cri.version"
	text := c.CRI.Version
	if text == "" {
		return
	}
	if parseVersion(text, runtimeVersion) == nil {
		suggestion := ""
		if bare := strings.TrimPrefix(text, "v"); bare != text && parseVersion(bare, runtimeVersion) != nil {
			suggestion = fmt.Sprintf("; did you mean %s?", bare)
		}
		example := defaultRuntimeVersions[c.CRI.Name]
		if example == "" {
			example = DefaultContainerdVersion
		}
		c.report.Add(field, "found %s, expected a full version without a leading v, such as %s%s", strictyaml.Quote(text), example, suggestion)
	}
}

func checkVersionPair(c *checker) {
	if oldest, ok := oldestRuntimes[c.CRI.Name]; ok {
		if v := parseVersion(c.CRI.Version, runtimeVersion); v != nil && !atLeast(v, oldest) {
			c.report.Add("spec.cri.version", "found %s, which this version of nodeimg cannot preload images for; expected %s %s or newer", c.CRI.Version, c.CRI.Name, oldest)
		}
	}
	if c.CRI.Name != CRIContainerd {
		return
	}
	containerd := parseVersion(c.CRI.Version, runtimeVersion)
	if containerd == nil {
		return
	}
	const field = "spec.cri.version"
	if kubernetes := parseVersion(c.Kubernetes.Version, kubernetesVersion); kubernetes != nil {
		for _, r := range requirements {
			if atLeast(kubernetes, r.kubernetes) && !atLeast(containerd, r.containerd) {
				c.report.Add(field, "found %s, but Kubernetes %s needs containerd %s or newer, %s", c.CRI.Version, c.Kubernetes.Version, r.containerd, r.reason)
				return
			}
		}
	}
	if !atLeast(containerd, oldestContainerd) {
		c.report.Add(field, "found %s, which this version of nodeimg cannot preload images for; expected containerd %s or newer", c.CRI.Version, oldestContainerd)
	}
}
