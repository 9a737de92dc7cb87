package main

import (
	"cmp"
	"fmt"
	"io"
	"maps"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/docker/go-connections/nat"
	"github.com/spf13/pflag"

	"github.com/nodeimg/nodeimg/cluster/config"
	"github.com/nodeimg/nodeimg/recipes"
)

// describeOptions are the flags that describe a cluster. They have their say over the file.
type describeOptions struct {
	file                          string
	name                          string
	controlPlanes, workers, nodes int
	images, mounts, env, publish  []string
	privileged                    bool
	runtime, memory               string
	cpus                          float64
	networking                    config.Networking
}

func (o *describeOptions) register(flags *pflag.FlagSet) {
	flags.StringVar(&o.file, "config", "", "read the description of the cluster from this file, - being standard input; flags have their say over it")
	flags.StringVar(&o.name, "name", config.DefaultName, "the cluster's name")
	flags.IntVar(&o.controlPlanes, "control-planes", 1, "nodes with an API server and etcd")
	flags.IntVar(&o.workers, "workers", 0, "nodes beside the control planes; without any, those take all pods")
	flags.IntVar(&o.nodes, "nodes", 0, "nodes in all, in place of --workers")
	flags.StringArrayVar(&o.images, "image", nil, "node image, or ROLE=IMAGE with the role control-plane or worker (repeatable)")
	flags.StringArrayVarP(&o.publish, "publish", "p", nil, "[NODE=][ADDRESS:][PORT:]NODEPORT[/udp]: port on this host for one of a node, for instance worker-1=8080:30080 (repeatable);\n"+
		"NODE is control-plane-1 and ADDRESS 127.0.0.1, or ::1 with --ip-family ipv6, unless given")
	flags.StringArrayVarP(&o.mounts, "mount", "v", nil, "SOURCE:TARGET[:ro]: file or folder of this host in every node (repeatable)")
	flags.StringArrayVarP(&o.env, "env", "e", nil, "NAME=VALUE for every node; NAME alone takes the value from this environment (repeatable)")
	flags.StringVar(&o.memory, "memory", "", "memory of each node, for instance 2g")
	flags.Float64Var(&o.cpus, "cpus", 0, "processors of each node, for instance 1.5")
	flags.StringVar(&o.runtime, "runtime", "", "the Engine's OCI runtime for nodes; sysbox-runc unless given")
	flags.BoolVar(&o.privileged, "privileged", false, "give the nodes every privilege on this host")
	flags.StringVar(&o.networking.Network, "network", "", "network of the Engine to join; one of the cluster's own unless given")
	flags.StringVar(&o.networking.IPFamily, "ip-family", "", "addresses of pods and services: ipv4, which is the default, ipv6 or dual")
	flags.StringVar(&o.networking.PodSubnet, "pod-subnet", "", "addresses of pods; the image's, or fd00:10:244::/56, unless given")
	flags.StringVar(&o.networking.ServiceSubnet, "service-subnet", "", "addresses of services; 10.96.0.0/12, or fd00:10:96::/112, unless given")
	flags.StringVar(&o.networking.CNI, "cni", "", "pod network: bridge, flannel or none; bridge unless given, or none when the image has none")
	flags.StringVar(&o.networking.KubeProxyMode, "kube-proxy-mode", "", "how services are made: iptables, which is the default, nftables or ipvs")
	flags.StringVar(&o.networking.APIAddress, "api-address", "", "address of the API server on this host; 127.0.0.1 unless given")
	flags.IntVar(&o.networking.APIPort, "api-port", 0, "port of the API server on this host; a free one unless given")
}

// describer puts a description together.
type describer struct {
	*describeOptions
	flags    *pflag.FlagSet
	document *config.Document
	config.Cluster
	// said is which flag a field is from, "" being the argument.
	said map[string]string
	// named is in which field the image of a name stands.
	named map[string]string
}

// describe makes the description of the cluster, of which image is the argument or "". The error is a *recipes.InputError that names file,
// line and field, or the flag.
func (o *describeOptions) describe(flags *pflag.FlagSet, image string, stdin io.Reader) (*describer, error) {
	d := &describer{describeOptions: o, flags: flags, said: map[string]string{}, named: map[string]string{}}
	if o.file != "" {
		document, err := config.Load(o.file, stdin)
		if err != nil {
			return nil, err
		}
		d.document, d.Cluster = document, document.Value
	}
	d.network() // First: defaults depend on it.
	d.Default()
	for _, apply := range []func() error{d.counts, func() error { return d.roleImages(image) }, d.containers, d.ports} {
		if err := apply(); err != nil {
			return nil, err
		}
	}
	if err := d.Validate(); err != nil {
		return nil, d.located(err)
	}
	return d, nil
}

// take copies a flag's value that was given to the field at the path.
func take[T any](d *describer, flag, path string, value T, field *T) bool {
	if !d.flags.Changed(flag) {
		return false
	}
	*field = value
	d.said[path] = "--" + flag
	return true
}

// counts sets how many nodes there are.
func (d *describer) counts() error {
	take(d, "name", "metadata.name", d.name, &d.Metadata.Name)
	if d.flags.Changed("control-planes") {
		if d.controlPlanes < 1 {
			return recipes.InputErrorf("--control-planes: found %d, expected at least 1", d.controlPlanes)
		}
		if err := d.resize("control-planes", &d.Spec.ControlPlanes, d.controlPlanes); err != nil {
			return err
		}
	}
	workers, flag := d.workers, "workers"
	switch {
	case d.flags.Changed("nodes") && d.flags.Changed("workers"):
		return recipes.InputErrorf("--nodes counts the control planes too; give it or --workers")
	case d.flags.Changed("nodes"):
		if workers, flag = d.nodes-d.Spec.ControlPlanes.Count(), "nodes"; workers < 0 {
			return recipes.InputErrorf("--nodes: found %d, but there are %d control planes already", d.nodes, d.Spec.ControlPlanes.Count())
		}
	case !d.flags.Changed("workers"):
		return nil
	case workers < 0:
		return recipes.InputErrorf("--workers: found %d, expected 0 or more", workers)
	}
	return d.resize(flag, &d.Spec.Workers, workers)
}

// resize gives the only group of a role its number of nodes.
func (d *describer) resize(flag string, groups *config.Groups, count int) error {
	switch {
	case len(*groups) > 1:
		return recipes.InputErrorf("--%s: %s has %d groups of such nodes; change their counts there", flag, d.file, len(*groups))
	case count == 0:
		*groups = nil
	case len(*groups) == 0:
		*groups = config.Groups{{Count: count}}
	default:
		(*groups)[0].Count = count
	}
	return nil
}

// roleImages sets the images of nodes.
func (d *describer) roleImages(argument string) error {
	if argument != "" {
		d.Spec.Image, d.said["spec.image"] = argument, ""
	}
	for _, value := range d.images {
		role, image, named := strings.Cut(value, "=")
		if !named {
			if argument != "" {
				return recipes.InputErrorf("--image %s: the argument %s is the image of all nodes already; give --image ROLE=IMAGE, or one of them", value, argument)
			}
			d.Spec.Image, d.said["spec.image"] = value, "--image "+value
			continue
		}
		groups, ok := d.groups(role)
		if !ok || image == "" {
			return recipes.InputErrorf("--image %s: expected IMAGE, control-plane=IMAGE or worker=IMAGE%s", value, recipes.DidYouMean(role, roles))
		}
		if len(*groups) == 0 {
			return recipes.InputErrorf("--image %s: there is no %s; give --%[2]ss, or leave it out", value, role)
		}
		for i := range *groups {
			(*groups)[i].Image, d.said[imageField(role, i)] = image, "--image "+value
		}
	}
	for _, role := range roles {
		groups, _ := d.groups(role)
		for i, group := range *groups {
			d.named[group.Image] = imageField(role, i)
		}
	}
	d.named[d.Spec.Image] = "spec.image"
	missing := func(g config.Group) bool { return g.Image == "" }
	if d.Spec.Image == "" && slices.ContainsFunc(slices.Concat(d.Spec.ControlPlanes, d.Spec.Workers), missing) {
		if d.file != "" {
			return recipes.InputErrorf("%s has no spec.image; add it, or give the image as an argument", d.file)
		}
		return recipes.InputErrorf("expected a node image or a recipe as an argument, --image or --config")
	}
	return nil
}

// imageField is the field with the image of a group.
func imageField(role string, group int) string {
	name := map[string]string{string(config.RoleControlPlane): "controlPlanes", string(config.RoleWorker): "workers"}[role]
	return fmt.Sprintf("spec.%s[%d].image", name, group)
}

var roles = []string{string(config.RoleControlPlane), string(config.RoleWorker)}

func (d *describer) groups(role string) (*config.Groups, bool) {
	switch config.Role(role) {
	case config.RoleControlPlane:
		return &d.Spec.ControlPlanes, true
	case config.RoleWorker:
		return &d.Spec.Workers, true
	}
	return nil, false
}

// containers sets what the containers of all nodes are made with.
func (d *describer) containers() error {
	take(d, "runtime", "spec.runtime", d.runtime, &d.Spec.Runtime)
	take(d, "privileged", "spec.privileged", d.privileged, &d.Spec.Privileged)
	memory := take(d, "memory", "spec.memory", d.memory, &d.Spec.Memory)
	cpus := take(d, "cpus", "spec.cpus", d.cpus, &d.Spec.CPUs)
	groups := slices.Concat(d.Spec.ControlPlanes, d.Spec.Workers)
	d.Spec.ControlPlanes, d.Spec.Workers = groups[:len(d.Spec.ControlPlanes)], groups[len(d.Spec.ControlPlanes):]
	for i := range groups {
		if memory {
			groups[i].Memory = ""
		}
		if cpus {
			groups[i].CPUs = 0
		}
	}
	for _, text := range d.mounts {
		m, err := parseMount(text)
		if err != nil {
			return err
		}
		d.said[fmt.Sprintf("spec.mounts[%d]", len(d.Spec.Mounts))] = "--mount " + text
		d.Spec.Mounts = append(d.Spec.Mounts, m)
	}
	if len(d.env) > 0 {
		d.Spec.Env = maps.Clone(d.Spec.Env)
		if d.Spec.Env == nil {
			d.Spec.Env = map[string]string{}
		}
	}
	for _, text := range d.env {
		name, value, given := strings.Cut(text, "=")
		if !given {
			if value, given = os.LookupEnv(name); !given {
				return recipes.InputErrorf("--env %s: there is no such variable here; give a value with %[1]s=VALUE", text)
			}
		}
		d.Spec.Env[name] = value
		d.said["spec.env["+name+"]"] = "--env " + name
		for i := range groups {
			delete(groups[i].Env, name)
		}
	}
	return nil
}

// parseMount reads SOURCE:TARGET[:ro].
func parseMount(text string) (config.Mount, error) {
	parts := strings.Split(text, ":")
	if len(parts) < 2 || len(parts) > 3 || parts[0] == "" || parts[1] == "" {
		return config.Mount{}, recipes.InputErrorf("--mount %s: expected SOURCE:TARGET or SOURCE:TARGET:ro", text)
	}
	source, err := filepath.Abs(parts[0])
	if err != nil {
		return config.Mount{}, fmt.Errorf("finding the mount %s: %w", text, err)
	}
	m := config.Mount{HostPath: source, ContainerPath: parts[1]}
	if len(parts) == 3 {
		if parts[2] != "ro" && parts[2] != "rw" {
			return config.Mount{}, recipes.InputErrorf("--mount %s: found %q behind the target, expected ro or rw", text, parts[2])
		}
		m.ReadOnly = parts[2] == "ro"
	}
	return m, nil
}

func (d *describer) network() {
	n, to := d.networking, &d.Spec.Networking
	for _, s := range []struct {
		flag, name string
		value      string
		field      *string
	}{
		{"network", "network", n.Network, &to.Network},
		{"ip-family", "ipFamily", n.IPFamily, &to.IPFamily},
		{"pod-subnet", "podSubnet", n.PodSubnet, &to.PodSubnet},
		{"service-subnet", "serviceSubnet", n.ServiceSubnet, &to.ServiceSubnet},
		{"cni", "cni", n.CNI, &to.CNI},
		{"kube-proxy-mode", "kubeProxyMode", n.KubeProxyMode, &to.KubeProxyMode},
		{"api-address", "apiAddress", n.APIAddress, &to.APIAddress},
	} {
		take(d, s.flag, "spec.networking."+s.name, s.value, s.field)
	}
	take(d, "api-port", "spec.networking.apiPort", n.APIPort, &to.APIPort)
}

// ports publishes ports of nodes, each of which becomes a group of its own.
func (d *describer) ports() error {
	for _, text := range d.publish {
		node, ports, named := strings.Cut(text, "=")
		if !named {
			node, ports = string(config.RoleControlPlane), text
		}
		role, number := node, 1
		if i := strings.LastIndex(node, "-"); i > 0 {
			if n, err := strconv.Atoi(node[i+1:]); err == nil {
				role, number = node[:i], n
			}
		}
		groups, ok := d.groups(role)
		if !ok {
			return recipes.InputErrorf("--publish %s: found the node %q, expected one like worker-2 or control-plane-1%s", text, node, recipes.DidYouMean(role, roles))
		}
		if number < 1 || number > groups.Count() {
			return recipes.InputErrorf("--publish %s: there is no node %s-%d; the cluster has %d of them", text, role, number, groups.Count())
		}
		parsed, err := nat.ParsePortSpec(ports)
		if err != nil {
			return recipes.InputErrorf("--publish %s: %v", text, err)
		}
		split, index := groups.Single(number)
		for _, p := range parsed {
			port := config.Port{ListenAddress: p.Binding.HostIP, ContainerPort: p.Port.Int(), Protocol: strings.ToUpper(p.Port.Proto())}
			if p.Binding.HostPort != "" {
				if port.HostPort, err = strconv.Atoi(p.Binding.HostPort); err != nil {
					return recipes.InputErrorf("--publish %s: found %s as the port on the host, expected one port", text, p.Binding.HostPort)
				}
			}
			split[index].Ports = append(split[index].Ports, port)
		}
		*groups = split
	}
	return nil
}

// located says of each problem where it comes from: a flag, or a place in the file.
func (d *describer) located(err error) error {
	input, ok := err.(*recipes.InputError)
	if !ok {
		return err
	}
	var problems []recipes.Problem
	for _, p := range input.Problems {
		flag, said := "", false
		for path, f := range d.said {
			if p.Field == path || strings.HasPrefix(p.Field, path+".") {
				flag, said = f, true
			}
		}
		switch {
		case p.File != "": // A recipe has it.
		case said:
			p = recipes.Problem{Message: strings.TrimPrefix(flag+": "+p.Message, ": ")}
		case strings.Contains(p.Field, ".ports[") && len(d.publish) > 0:
			p = recipes.Problem{Message: "--publish: " + p.Message}
		case d.document != nil:
			p = d.document.Problem(p.Field, "%s", p.Message)
		}
		problems = append(problems, p)
	}
	return recipes.NewInputError(problems...)
}

// imageLocated says of an error about the image of a name where that comes from.
func (d *describer) imageLocated(image string, err error) error {
	input, ok := err.(*recipes.InputError)
	if !ok {
		return err
	}
	problems := slices.Clone(input.Problems)
	for i := range problems {
		if problems[i].File == "" {
			problems[i].Field = d.named[image]
		}
	}
	return d.located(recipes.NewInputError(problems...))
}

// apiAddress is where the API server is to be published on the host.
func apiAddress(n config.Networking) string {
	return net.JoinHostPort(cmp.Or(n.APIAddress, config.DefaultListenAddress), strconv.Itoa(n.APIPort))
}
