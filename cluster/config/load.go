package config

import (
	"cmp"
	"io"
	"os"
	"path/filepath"
	"slices"

	"github.com/nodeimg/nodeimg/internal/strictyaml"
	"github.com/nodeimg/nodeimg/recipes"
)

// DefaultName is the name of a cluster that nobody has named.
const DefaultName = "nodeimg"

// Document is a description of a cluster with the places where its fields stand.
type Document = strictyaml.Document[Cluster]

// format is what descriptions of clusters are.
var format = strictyaml.Format[Cluster]{
	Noun: "cluster", APIVersion: APIVersion, Kind: Kind,
	Empty: "holds no cluster, expected a mapping with apiVersion " + APIVersion + " and kind " + Kind,
	Expectations: map[string]string{
		"apiVersion":    APIVersion,
		"kind":          Kind,
		"key":           "the name of a taint",
		"effect":        "NoSchedule, PreferNoSchedule or NoExecute",
		"hostPath":      "a file or folder on the host",
		"containerPath": "an absolute path in the node",
		"containerPort": "a port of the node",
		"patch":         "a list of operations (RFC 6902)",
	},
	Complete: func(c *Cluster, dir string) []recipes.Problem {
		problems := c.check(dir).report.Problems
		c.absolute(dir)
		return problems
	},
	Together: func(documents []*Document) []recipes.Problem {
		if len(documents) < 2 {
			return nil
		}
		return []recipes.Problem{documents[1].Problem("", "found a second cluster, expected one in a file")}
	},
}

// Load reads the description in the file at path, or in stdin when path is "-". It comes back valid, without defaults; paths on the host
// are absolute.
//
// Everything that is wrong with the input, a missing file included, comes back at once as one *recipes.InputError.
func Load(path string, stdin io.Reader) (*Document, error) {
	documents, err := format.Load(path, stdin)
	if err != nil {
		return nil, err
	}
	return documents[0], nil
}

// Default fills in what the description leaves open. It changes nothing in one that it was called on before.
//
//	metadata.name        DefaultName
//	spec.controlPlanes   one node
//	count of a group     1
//	spec.networking      podSubnet and serviceSubnet of the families, with ipFamily ipv6 or dual
func (c *Cluster) Default() {
	c.APIVersion, c.Kind = APIVersion, Kind
	if c.Metadata.Name == "" {
		c.Metadata.Name = DefaultName
	}
	if len(c.Spec.ControlPlanes) == 0 {
		c.Spec.ControlPlanes = Groups{{}}
	}
	switch n := &c.Spec.Networking; n.IPFamily {
	case IPv6:
		n.PodSubnet = cmp.Or(n.PodSubnet, ipv6PodSubnet)
		n.ServiceSubnet = cmp.Or(n.ServiceSubnet, ipv6ServiceSubnet)
	case Dual:
		n.PodSubnet = cmp.Or(n.PodSubnet, dualPodSubnet)
		n.ServiceSubnet = cmp.Or(n.ServiceSubnet, dualServiceSubnet)
	}
	for _, groups := range []Groups{c.Spec.ControlPlanes, c.Spec.Workers} {
		for i := range groups {
			if groups[i].Count == 0 {
				groups[i].Count = 1
			}
		}
	}
}

// absolute makes the paths of a description in dir independent of dir.
func (c *Cluster) absolute(dir string) {
	paths := []*string{}
	images := []*string{&c.Spec.Image}
	for i := range c.Spec.CACertificates {
		paths = append(paths, &c.Spec.CACertificates[i])
	}
	lists := [][]Mount{c.Spec.Mounts}
	for _, group := range slices.Concat(c.Spec.ControlPlanes, c.Spec.Workers) {
		lists = append(lists, group.Mounts)
	}
	for _, groups := range []Groups{c.Spec.ControlPlanes, c.Spec.Workers} {
		for i := range groups {
			images = append(images, &groups[i].Image)
		}
	}
	for _, mounts := range lists {
		for i := range mounts {
			paths = append(paths, &mounts[i].HostPath)
		}
	}
	for _, p := range paths {
		*p = hostPath(dir, *p)
	}
	for _, image := range images {
		if *image == "" {
			continue
		}
		// What is no path is a name in the Engine.
		if path := hostPath(dir, *image); exists(path) {
			*image = path
		}
	}
}

// hostPath is absolute, as the Engine wants it, wherever there is a working directory.
func hostPath(dir, name string) string {
	path := strictyaml.HostPath(dir, name)
	if absolute, err := filepath.Abs(path); err == nil && name != "" {
		return absolute
	}
	return path
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// Validate checks a defaulted description whose paths are independent of any file. All mistakes come back at once as a
// *recipes.InputError whose problems have fields but no positions.
func (c *Cluster) Validate() error {
	k := c.check(".")
	k.defaulted()
	if problems := k.report.Problems; len(problems) > 0 {
		return recipes.NewInputError(problems...)
	}
	return nil
}
