package modules

import (
	"strings"
	"time"
)

// ldflags are the linker's flags for p: no symbol table or debug information, as upstream's releases, the stamps, and a static link
// where C is involved, so that the program runs on any distribution.
func ldflags(p project, m moduleFact, cgo bool) string {
	flags := []string{"-s", "-w"}
	if p.stamps != nil {
		for _, stamp := range p.stamps(m) {
			flags = append(flags, "-X", stamp)
		}
	}
	if len(p.modules) == 0 {
		flags = append(flags, "-X", "main.version="+p.version)
	}
	if cgo {
		flags = append(flags, "-linkmode", "external", "-extldflags", "-static")
	}
	return strings.Join(flags, " ")
}

// stampVersion sets one variable to the module's version.
func stampVersion(variable string) func(moduleFact) []string {
	return func(m moduleFact) []string { return []string{variable + "=" + m.Version} }
}

// stampKubernetes sets what "kubectl version" shows, in both packages that hold it, as upstream's hack/lib/version.sh does. The tree
// state is "archive", upstream's word for sources that do not come from a git checkout. The commit is "unknown": proxies do not all
// tell it, and it must not depend on the proxy. The date is the release's, not that of the compilation, so that compiling again gives the same bytes.
func stampKubernetes(m moduleFact) []string {
	major, rest, _ := strings.Cut(strings.TrimPrefix(m.Version, "v"), ".")
	minor, _, _ := strings.Cut(rest, ".")
	var stamps []string
	for _, pkg := range []string{"k8s.io/component-base/version", "k8s.io/client-go/pkg/version"} {
		stamps = append(stamps,
			pkg+".gitVersion="+m.Version,
			pkg+".gitMajor="+major,
			pkg+".gitMinor="+minor,
			pkg+".gitTreeState=archive",
			pkg+".gitCommit=unknown",
			pkg+".buildDate="+m.Time.UTC().Format(time.RFC3339),
		)
	}
	return stamps
}

// stampDocker sets the version variables in pkg, which are the same ones in the Docker Engine (hack/make/.go-autogen) and in its command
// line (scripts/build/.variables). Docker's versions have no leading v.
func stampDocker(pkg string) func(moduleFact) []string {
	return func(m moduleFact) []string {
		return []string{
			pkg + ".Version=" + bare(m.Version),
			pkg + ".GitCommit=unknown",
			pkg + ".BuildTime=" + m.Time.UTC().Format(time.RFC3339),
		}
	}
}

// stampCRIDockerd sets the variables in pkg that cri-dockerd's Makefile sets.
func stampCRIDockerd(pkg string) func(moduleFact) []string {
	return func(m moduleFact) []string {
		return []string{pkg + ".Version=" + bare(m.Version), pkg + ".GitCommit=unknown"}
	}
}

// stampCRIO sets the variables in pkg that CRI-O's Makefile sets; the version is a constant there.
func stampCRIO(pkg string) func(moduleFact) []string {
	return func(m moduleFact) []string {
		return []string{pkg + ".buildDate=" + m.Time.UTC().Format(time.RFC3339), pkg + ".buildCommit=unknown"}
	}
}

// bare is a module's version as projects write it that have no leading v.
func bare(version string) string {
	return strings.TrimSuffix(strings.TrimPrefix(version, "v"), incompatible)
}
