package recipes

import (
	"fmt"
	"slices"
	"strings"

	"github.com/nodeimg/nodeimg/internal/strictyaml"
)

// Validate checks a defaulted recipe whose relative host paths start from dir. All mistakes come back at once as an *InputError whose
// problems have fields but no positions; Load, which knows them, adds those.
func (r *Recipe) Validate(dir string) error {
	if problems := r.check(dir); len(problems) > 0 {
		return NewInputError(problems...)
	}
	return nil
}

// checks is everything that Validate looks at. Each check reports on its own fields and trusts that others report on theirs.
var checks = []func(*checker){
	checkMirrors, // Before the checks that quote what they find: it knows about passwords.
	checkEnums,
	checkText,
	checkName,
	checkKubernetesVersion,
	checkBase,
	checkCRIVersion,
	checkVersionPair,
	checkEngine,
	checkLayout,
	checkMaxLayers,
	checkImages,
	checkPackages,
	checkFiles,
	checkRun,
	checkCACertificates,
	checkPlatforms,
	checkLimits,
}

// checker carries one validation through the checks.
type checker struct {
	*Spec
	recipe *Recipe
	dir    string
	report strictyaml.Report
}

func (r *Recipe) check(dir string) []Problem {
	c := &checker{Spec: &r.Spec, recipe: r, dir: dir, report: strictyaml.Report{
		Noun: "recipe", Place: "image", Remedy: ", nodeimg takes credentials from docker login",
	}}
	for _, check := range checks {
		check(c)
	}
	return c.report.Problems
}

// checkEnums compares fields of few values with the values that their type's tags list.
func checkEnums(c *checker) { c.report.Enums(*c.recipe) }

// checkText refuses control characters: all fields but run end up in places where a line break would start something else.
func checkText(c *checker) {
	c.report.Text(*c.recipe, func(path string) string {
		if strings.HasPrefix(path, "spec.run[") {
			return "\n\t"
		}
		return ""
	})
}

func checkName(c *checker) {
	const field = "metadata.name"
	if name := c.recipe.Metadata.Name; !isDNSLabel(name) {
		suggestion := ""
		if fixed := strings.Trim(strings.NewReplacer("_", "-", ".", "-", " ", "-").Replace(strings.ToLower(name)), "-"); isDNSLabel(fixed) {
			suggestion = fmt.Sprintf("; did you mean %s?", fixed)
		}
		c.report.Add(field, "found %s, expected at most 63 lower-case letters, digits and dashes, such as k8s-node%s", strictyaml.Quote(name), suggestion)
	}
}

// isDNSLabel implements RFC 1123's label, as Kubernetes names do.
func isDNSLabel(s string) bool {
	notIn := func(r rune) bool { return (r < 'a' || r > 'z') && (r < '0' || r > '9') && r != '-' }
	return s != "" && len(s) <= 63 && !strings.ContainsFunc(s, notIn) && s[0] != '-' && s[len(s)-1] != '-'
}

func checkBase(c *checker) {
	base := c.Base
	if base.From == FromPackages && base.Image != "" {
		c.report.Add("spec.base.image", "found %s together with from: packages, which bootstraps the distribution without an image; "+
			"remove one of them", strictyaml.Quote(base.Image))
	} else if base.Image != "" {
		if _, err := NormalizeReference(base.Image); err != nil {
			c.report.Add("spec.base.image", "%v", err)
		}
	}
	if _, known := FindDistro(base.Distro, ""); !known {
		return
	}
	if _, known := FindDistro(base.Distro, base.Release); known {
		return
	}
	var releases []string
	suggestion := ""
	for _, d := range distros {
		if d.Name != base.Distro {
			continue
		}
		releases = append(releases, fmt.Sprintf("%q (%s)", d.Release, d.Codename))
		if strictyaml.Nearest(base.Release, []string{d.Codename}) != "" || strings.HasPrefix(base.Release, d.Release+".") {
			suggestion = fmt.Sprintf("; did you mean %q?", d.Release)
		}
	}
	c.report.Add("spec.base.release", "found %s, expected a release of %s: %s%s", strictyaml.Quote(base.Release), base.Distro, strictyaml.OneOf(releases), suggestion)
}

// engineRuntimes says which runtimes each engine can fill: inner lets the node's containerd pull (design §5), on which the Docker Engine
// stands too; a node with CRI-O has none.
var engineRuntimes = map[Engine][]CRIName{
	EngineInner:  {CRIContainerd, CRIDocker},
	EngineDirect: {CRIContainerd, CRIDocker, CRICRIO},
}

func checkEngine(c *checker) {
	engine, cri := c.Preload.Engine, c.CRI.Name
	served, known := engineRuntimes[engine]
	if !known || slices.Contains(served, cri) || !slices.Contains([]CRIName{CRIContainerd, CRIDocker, CRICRIO}, cri) {
		return
	}
	names := make([]string, len(served))
	for i, s := range served {
		names[i] = string(s)
	}
	c.report.Add("spec.preload.engine", "found %s, which serves %s but not cri %s; expected auto", engine, strictyaml.OneOf(names), cri)
}

// checkLayout refuses what the runtime could not run: CRI-O has no blobs that it would unpack by itself.
func checkLayout(c *checker) {
	if c.CRI.Name.UnpackedOnly() && c.Preload.Layout == LayoutPacked && c.EngineUsed() == EngineDirect {
		c.report.Add("spec.preload.layout", "found %s, but CRI-O runs unpacked images only; expected %s", LayoutPacked, LayoutUnpacked)
	}
}

// The bounds of maxLayers: the node itself has about ten layers, and overlay2, which most Docker Engines store images with, stops at 128.
const (
	minMaxLayers = 20
	maxMaxLayers = 120
)

func checkMaxLayers(c *checker) {
	if n := c.Preload.MaxLayers; n < minMaxLayers || n > maxMaxLayers {
		c.report.Add("spec.preload.maxLayers", "found %d, expected a number from %d to %d", n, minMaxLayers, maxMaxLayers)
	}
}

func checkRun(c *checker) {
	for i, line := range c.Run {
		if strings.TrimSpace(line) == "" {
			c.report.Add(fmt.Sprintf("spec.run[%d]", i), "found an empty line, expected a shell command")
		}
	}
}

func checkPlatforms(c *checker) {
	c.report.Repeated("spec.platforms", c.Platforms)
}

// limit is a value that the recipe format has and this version of nodeimg cannot build yet.
type limit struct {
	field   string
	value   func(*Spec) string
	missing []string
	now     string
}

// limits is honest about what this version does not do: better an error now than an image that lacks what it promises.
var limits = []limit{
	{"spec.cni.name", func(s *Spec) string { return string(s.CNI.Name) }, []string{"kindnet", "calico"}, "flannel, bridge or none"},
}

func checkLimits(c *checker) {
	for _, l := range limits {
		if v := l.value(c.Spec); slices.Contains(l.missing, v) {
			c.report.Add(l.field, "found %s, which this version of nodeimg cannot build yet; what works now is %s", v, l.now)
		}
	}
	if len(c.Platforms) > 1 {
		c.report.Add("spec.platforms", "found %d platforms, but this version of nodeimg builds one at a time; "+
			"write one recipe for each", len(c.Platforms))
	}
}
