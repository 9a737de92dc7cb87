package config

import (
	"fmt"
	"maps"
	"path"
	"regexp"
	"slices"
	"strings"

	"github.com/docker/go-units"
	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/nodeimg/nodeimg/internal/strictyaml"
	"github.com/nodeimg/nodeimg/recipes"
)

// checker carries one validation through the checks. Each check reports on its own fields and trusts that others report on theirs.
type checker struct {
	*Spec
	dir    string
	report strictyaml.Report
}

// check checks what is right or wrong whatever the defaults are.
func (c *Cluster) check(dir string) *checker {
	k := &checker{Spec: &c.Spec, dir: dir, report: strictyaml.Report{
		Noun: "file", Place: "nodes", Remedy: ", nodes have no credentials for mirrors",
	}}
	k.report.Enums(*c)
	k.report.Bounds(*c)
	k.report.Text(*c, func(path string) string {
		if strings.Contains(path, "atch") || strings.Contains(path, "env[") {
			return "\n\t\r"
		}
		return ""
	})
	if c.Metadata.Name != "" {
		if err := CheckName(c.Metadata.Name); err != nil {
			k.report.Add("metadata.name", "%v", err)
		}
	}
	k.nodes("spec", Group{Mounts: c.Spec.Mounts, Env: c.Spec.Env, Memory: c.Spec.Memory, CPUs: c.Spec.CPUs})
	k.patches("spec", allKinds, c.Spec.KubeadmPatches, c.Spec.KubeadmPatchesJSON6902)
	k.group("spec.controlPlanes", RoleControlPlane, c.Spec.ControlPlanes)
	k.group("spec.workers", RoleWorker, c.Spec.Workers)
	k.ports()
	k.networking()
	k.components()
	k.mirrors()
	k.report.Certificates("spec.caCertificates", dir, c.Spec.CACertificates)
	return k
}

// nameForm is that of a DNS label, because nodes are named after the cluster, and their names are host names.
var nameForm = regexp.MustCompile(`^[a-z0-9]([-a-z0-9]*[a-z0-9])?$`)

// MaxName leaves room for what node names add within the 63 bytes of a host name.
const MaxName = 40

// CheckName says what is wrong with a cluster's name; the error is a *recipes.InputError.
func CheckName(name string) error {
	if len(name) > MaxName || !nameForm.MatchString(name) {
		return recipes.InputErrorf("found the cluster name %q, expected at most %d lower-case letters, digits and dashes, with a letter or digit at both ends", name, MaxName)
	}
	return nil
}

// group checks the groups of a role.
func (k *checker) group(path string, role Role, groups Groups) {
	for i, g := range groups {
		field := fmt.Sprintf("%s[%d]", path, i)
		k.nodes(field, g)
		kinds := joiningKinds
		if role == RoleControlPlane && i == 0 {
			kinds = allKinds
		}
		k.patches(field, kinds, g.KubeadmPatches, g.KubeadmPatchesJSON6902)
		for _, key := range slices.Sorted(maps.Keys(g.Labels)) {
			k.label(field+".labels["+key+"]", key, g.Labels[key])
		}
		k.taints(field, g.Taints)
	}
}

func (k *checker) label(field, key, value string) {
	if wrong := validation.IsQualifiedName(key); len(wrong) > 0 {
		k.report.Add(field, "found the name %s of a label: %s", strictyaml.Quote(key), wrong[0])
	} else if wrong := validation.IsValidLabelValue(value); len(wrong) > 0 {
		k.report.Add(field, "found the value %s of a label: %s", strictyaml.Quote(value), wrong[0])
	}
}

func (k *checker) taints(path string, taints []Taint) {
	seen := map[[2]string]int{}
	for i, t := range taints {
		field := fmt.Sprintf("%s.taints[%d]", path, i)
		if wrong := validation.IsQualifiedName(t.Key); len(wrong) > 0 {
			k.report.Add(field+".key", "found the name %s of a taint: %s", strictyaml.Quote(t.Key), wrong[0])
		}
		if wrong := validation.IsValidLabelValue(t.Value); len(wrong) > 0 {
			k.report.Add(field+".value", "found the value %s of a taint: %s", strictyaml.Quote(t.Value), wrong[0])
		}
		id := [2]string{t.Key, t.Effect}
		if first, again := seen[id]; again {
			k.report.Add(field, "found %s:%s again, it is already %s.taints[%d]; remove one of them", t.Key, t.Effect, path, first)
			continue
		}
		seen[id] = i
	}
}

// variable is the form of names in an environment that shells and systemd take.
var variable = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)

// smallest is the least memory that the Docker Engine takes, in bytes; a node needs more.
const smallest = 6 << 20

// nodes checks what containers are made with.
func (k *checker) nodes(path string, g Group) {
	for _, name := range slices.Sorted(maps.Keys(g.Env)) {
		if !variable.MatchString(name) {
			k.report.Add(path+".env["+name+"]", "found %s as the name of a variable, expected letters, digits and underscores", strictyaml.Quote(name))
		}
	}
	if g.Memory != "" {
		if n, err := units.RAMInBytes(g.Memory); err != nil || n < smallest {
			k.report.Add(path+".memory", "found %s, expected an amount of memory of at least 6m, such as 2g", strictyaml.Quote(g.Memory))
		}
	}
	k.mounts(path, g.Mounts)
}

// taken are places in a node that something is mounted over.
var taken = []string{"/", "/dev", "/proc", "/run", "/sys", "/tmp", "/var"}

func (k *checker) mounts(in string, mounts []Mount) {
	targets := map[string]int{}
	for i, m := range mounts {
		field := fmt.Sprintf("%s.mounts[%d]", in, i)
		if m.HostPath == "" {
			k.report.Add(field+".hostPath", "found nothing, expected a file or folder on the host")
		} else {
			k.report.HostPath(field+".hostPath", k.dir, m.HostPath, strictyaml.Existing)
		}
		target := m.ContainerPath
		switch first, again := targets[target]; {
		case !path.IsAbs(target):
			k.report.Add(field+".containerPath", "found %s, expected an absolute path in the node, such as /data", strictyaml.Quote(target))
		case path.Clean(target) != target:
			k.report.Add(field+".containerPath", "found %s, expected a path without detours; did you mean %s?", strictyaml.Quote(target), path.Clean(target))
		case slices.Contains(taken, target):
			k.report.Add(field+".containerPath", "found %s, which the node itself needs; expected another place, such as /data", target)
		case again:
			k.report.Add(field+".containerPath", "found %s again, it is already in %s.mounts[%d]", strictyaml.Quote(target), in, first)
		}
		targets[target] = i
		if in != "spec" && slices.ContainsFunc(k.Mounts, func(all Mount) bool { return all.ContainerPath == target }) {
			k.report.Add(field+".containerPath", "found %s, where spec.mounts has something for all nodes", strictyaml.Quote(target))
		}
	}
}
