package config

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/santhosh-tekuri/jsonschema/v6"
	"sigs.k8s.io/yaml"

	"github.com/nodeimg/nodeimg/recipes"
)

const head = "apiVersion: nodeimg.dev/v1alpha1\nkind: Cluster\n"

func load(t *testing.T, text string) Cluster {
	t.Helper()
	document, err := Load("-", strings.NewReader(head+text))
	if err != nil {
		t.Fatal(err)
	}
	document.Value.Default()
	return document.Value
}

// TestExample holds that the example is right, by the schema too, and that a valid description stays as it is.
func TestExample(t *testing.T) {
	document, err := Load("../../examples/cluster.yaml", nil)
	if err != nil {
		t.Fatal(err)
	}
	document.Value.Default()
	again := document.Value
	again.Default()
	if diff := cmp.Diff(document.Value, again); diff != "" {
		t.Errorf("defaults changed a description that has them (-want +got):\n%s", diff)
	}
	if err := again.Validate(); err != nil {
		t.Error(err)
	}
	schema, err := jsonschema.UnmarshalJSON(bytes.NewReader(Schema()))
	if err != nil {
		t.Fatal(err)
	}
	compiler := jsonschema.NewCompiler()
	if err := compiler.AddResource("schema.json", schema); err != nil {
		t.Fatal(err)
	}
	compiled, err := compiler.Compile("schema.json")
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile("../../examples/cluster.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var value any
	if err := yaml.Unmarshal(text, &value); err != nil {
		t.Fatal(err)
	}
	if err := compiled.Validate(value); err != nil {
		t.Errorf("the schema refuses the example: %v", err)
	}
	if got := document.Value.Spec.Image; !filepath.IsAbs(got) || filepath.Base(got) != "k8s-node.yaml" {
		t.Errorf("the recipe's path became %q", got)
	}
}

func TestDefaults(t *testing.T) {
	got := load(t, "spec: {image: node, workers: [{}, {count: 2, ports: [{containerPort: 80}]}]}")
	want := Cluster{
		APIVersion: APIVersion, Kind: Kind, Metadata: Metadata{Name: "nodeimg"},
		Spec: Spec{Image: "node", ControlPlanes: Groups{{Count: 1}}, Workers: Groups{{Count: 1}, {Count: 2, Ports: []Port{{ContainerPort: 80}}}}},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("descriptions differ (-want +got):\n%s", diff)
	}
}

// TestErrors lists descriptions that are refused, and what the error says where.
func TestErrors(t *testing.T) {
	for name, test := range map[string]struct{ text, want string }{
		"second document":     {"spec: {image: a}\n---\n" + head, "<stdin>:5:1: found a second cluster"},
		"another kind":        {"kind: Recipe", `kind: found "Recipe", expected Cluster`},
		"network of Docker":   {"spec: {networking: {network: bridge}}", "<stdin>:3:30: spec.networking.network: found bridge, where nodes do not find each other"},
		"subnets overlap":     {"spec: {networking: {podSubnet: 10.0.0.0/8, serviceSubnet: 10.1.0.0/16}}", "serviceSubnet: found 10.1.0.0/16, which overlaps with the podSubnet 10.0.0.0/8"},
		"two subnets":         {"spec: {networking: {podSubnet: '10.0.0.0/16,fd00::/56'}}", "podSubnet: found \"10.0.0.0/16,fd00::/56\", expected one IPv4 subnet; ipFamily: ipv6"},
		"wrong family":        {"spec: {networking: {ipFamily: ipv6, serviceSubnet: 10.0.0.0/16}}", "serviceSubnet: found \"10.0.0.0/16\", expected one IPv6 subnet"},
		"one subnet":          {"spec: {networking: {ipFamily: dual, podSubnet: 10.0.0.0/16}}", "podSubnet: found \"10.0.0.0/16\", expected one subnet of each family"},
		"subnet with a space": {"spec: {networking: {ipFamily: dual, podSubnet: '10.64.0.0/16, fd00:1::/56'}}", `podSubnet: found " fd00:1::/56", expected a subnet`},
		"many services":       {"spec: {networking: {serviceSubnet: 10.0.0.0/11}}", "<stdin>:3:36: spec.networking.serviceSubnet: found 10.0.0.0/11, expected a subnet from /12 to /28"},
		"many IPv6 services":  {"spec: {networking: {ipFamily: ipv6, serviceSubnet: 'fd00:1::/107'}}", "serviceSubnet: found fd00:1::/107, expected a subnet from /108 to /124"},
		"few services":        {"spec: {networking: {serviceSubnet: 10.0.0.0/29}}", "serviceSubnet: found 10.0.0.0/29, expected a subnet from /12 to /28"},
		"few pods":            {"spec: {networking: {podSubnet: 10.0.0.0/25}}", "<stdin>:3:32: spec.networking.podSubnet: found 10.0.0.0/25, expected a subnet from /8 to /24, of which each node gets a /24"},
		"many pods":           {"spec: {networking: {podSubnet: 10.0.0.0/7}}", "podSubnet: found 10.0.0.0/7, expected a subnet from /8 to /24"},
		"many IPv6 pods":      {"spec: {networking: {ipFamily: ipv6, podSubnet: 'fd00::/47'}}", "podSubnet: found fd00::/47, expected a subnet from /48 to /64, of which each node gets a /64"},
		"fewest pods":         {"spec: {networking: {podSubnet: 10.0.0.0/29}, kubeadmPatches: ['{kind: ClusterConfiguration, controllerManager: {extraArgs: {node-cidr-mask-size: 29}}}']}", "podSubnet: found 10.0.0.0/29, expected a subnet of at most /28"},
		"port of the API":     {"spec: {networking: {apiPort: 7}, workers: [{ports: [{hostPort: 7, containerPort: 3}]}]}", "spec.workers[0].ports[0].hostPort: found 7 again, it is already that of the API server (spec.networking.apiPort)"},
		"port of every IPv4":  {"spec: {workers: [{ports: [{hostPort: 1, containerPort: 2}]}, {ports: [{listenAddress: 0.0.0.0, hostPort: 1, containerPort: 3}]}]}", "spec.workers[1].ports[0].hostPort: found 1 again"},
		"port of every IPv6":  {"spec: {networking: {apiPort: 7, apiAddress: '::'}, workers: [{ports: [{listenAddress: '::1', hostPort: 7, containerPort: 3}]}]}", "found 7 again"},
		"port twice":          {"spec: {workers: [{ports: [{hostPort: 1, containerPort: 2}]}, {ports: [{hostPort: 1, containerPort: 3}]}]}", "spec.workers[1].ports[0].hostPort: found 1 again, it is already that of spec.workers[0].ports[0]"},
		"port too large":      {"spec: {workers: [{ports: [{containerPort: 65536}]}]}", "containerPort: found 65536, expected a number from 1 to 65535"},
		"address":             {"spec: {workers: [{ports: [{listenAddress: home, containerPort: 2}]}]}", "listenAddress: found \"home\", expected an address"},
		"mount twice":         {"spec: {mounts: [{hostPath: ., containerPath: /a}, {hostPath: ., containerPath: /a}]}", "spec.mounts[1].containerPath: found \"/a\" again"},
		"mount for all":       {"spec: {mounts: [{hostPath: ., containerPath: /a}], workers: [{mounts: [{hostPath: ., containerPath: /a}]}]}", "spec.workers[0].mounts[0].containerPath: found \"/a\", where spec.mounts has"},
		"taint twice":         {"spec: {workers: [{taints: [{key: a, effect: NoSchedule}, {key: a, value: b, effect: NoSchedule}]}]}", "spec.workers[0].taints[1]: found a:NoSchedule again"},
		"taint without key":   {"spec: {workers: [{taints: [{effect: NoSchedule}]}]}", "taints[0].key: is missing, expected the name of a taint"},
		"label":               {"spec: {workers: [{labels: {a: 'b c'}}]}", "labels[a]: found the value \"b c\" of a label"},
		"processors":          {"spec: {cpus: -1}", "<stdin>:3:14: spec.cpus: found -1, expected a number of at least 0"},
		"few processors":      {"spec: {cpus: 0.001}", "spec.cpus: found 0.001, expected a number of at least 0.01"},
		"memory":              {"spec: {memory: 5m}", "spec.memory: found \"5m\", expected an amount of memory of at least 6m"},
		"gate":                {"spec: {featureGates: {A-B: true}}", "spec.featureGates[A-B]: found \"A-B\", expected a feature gate"},
		"group of the API":    {"spec: {runtimeConfig: {api/all: 'on'}}", "spec.runtimeConfig[api/all]: found \"on\", expected \"true\" or \"false\""},
		"patch without kind":  {"spec: {kubeadmPatches: ['a: b']}", "spec.kubeadmPatches[0]: found a patch without kind"},
		"patch is no YAML":    {"spec: {kubeadmPatches: ['- a']}", "spec.kubeadmPatches[0]: found text that is no YAML mapping"},
		"operation":           {"spec: {kubeadmPatchesJSON6902: [{kind: JoinConfiguration, patch: '[{op: add}]'}]}", "patch: found text that is no list of operations"},
		"worker's kind":       {"spec: {workers: [{kubeadmPatchesJSON6902: [{kind: KubeProxyConfiguration, patch: '[]'}]}]}", "expected JoinConfiguration or KubeletConfiguration here"},
		"mirror":              {"spec: {registryMirrors: {docker.io: []}}", "spec.registryMirrors[docker.io]: found no mirror"},
		"mirror's registry":   {"spec: {registryMirrors: {'https://docker.io': [https://a.example]}}", "expected its host alone"},
		"line break":          {"spec: {runtime: \"a\\nb\"}", "spec.runtime: found \"a\\nb\", expected text without control characters"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := Load("-", strings.NewReader(head+test.text))
			if !errors.As(err, new(*recipes.InputError)) || !strings.Contains(err.Error(), test.want) {
				t.Errorf("got %v, want an *InputError with %q", err, test.want)
			}
		})
	}
}

// TestDefaulted lists what is wrong only beside defaults, and what flags could still put right.
func TestDefaulted(t *testing.T) {
	const ownMask = "kubeadmPatchesJSON6902: [{kind: ClusterConfiguration, patch: '[{op: add, path: /controllerManager/extraArgs/-, value: {name: node-cidr-mask-size-ipv4, value: \"26\"}}]'}]"
	for name, test := range map[string]struct{ text, want string }{
		"kubeadm's services":     {"networking: {podSubnet: 10.100.0.0/16}", "spec.networking.podSubnet: found 10.100.0.0/16, which overlaps with the serviceSubnet 10.96.0.0/12; choose another one"},
		"beside those of IPv6":   {"networking: {ipFamily: ipv6, podSubnet: 'fd00:10::/48'}", ""},
		"services of IPv6":       {"networking: {ipFamily: ipv6, podSubnet: 'fd00:10:96::/64'}", "podSubnet: found fd00:10:96::/64, which overlaps with the serviceSubnet fd00:10:96::/112"},
		"pods of IPv6":           {"networking: {ipFamily: ipv6, serviceSubnet: 'fd00:10:244:1::/112'}", "serviceSubnet: found fd00:10:244:1::/112, which overlaps with the podSubnet fd00:10:244::/56"},
		"dual":                   {"networking: {ipFamily: dual, podSubnet: '10.96.0.0/16,fd00:1::/56'}", "podSubnet: found 10.96.0.0/16, which overlaps"},
		"beside those of dual":   {"networking: {ipFamily: dual, podSubnet: '10.100.0.0/16,fd00:1::/56'}", ""},
		"both are given":         {"networking: {podSubnet: 10.100.0.0/16, serviceSubnet: 10.96.0.0/16}", ""},
		"a patch gives services": {"networking: {podSubnet: 10.100.0.0/16}, kubeadmPatches: ['{kind: ClusterConfiguration, networking: {serviceSubnet: 10.8.0.0/16}}']", ""},
		"the image may differ":   {"networking: {serviceSubnet: 10.244.0.0/16}", ""},
		"largest":                {"networking: {podSubnet: 11.0.0.0/8, serviceSubnet: 10.96.0.0/12}", ""},
		"smallest":               {"networking: {podSubnet: 10.0.0.0/24, serviceSubnet: 10.1.0.0/28}", ""},
		"too many nodes":         {"networking: {podSubnet: 10.0.0.0/23}, workers: [{count: 2}]", "spec.networking.podSubnet: found 10.0.0.0/23, of which each node gets a /24: it is enough for 2, but there are 3 nodes"},
		"too many nodes of dual": {"networking: {ipFamily: dual, podSubnet: '10.0.0.0/16,fd00:1::/64'}, workers: [{}]", "found fd00:1::/64, of which each node gets a /64: it is enough for 1, but there are 2 nodes"},
		"just as many nodes":     {"networking: {podSubnet: 10.0.0.0/23}, workers: [{}]", ""},
		"own pod network":        {"networking: {podSubnet: 10.0.0.0/24, cni: none}, workers: [{}]", ""},
		"own parts for nodes":    {"networking: {podSubnet: 10.0.0.0/24}, workers: [{}], " + ownMask, ""},
		"smaller parts":          {"networking: {podSubnet: 10.0.0.0/25}, workers: [{}], " + ownMask, ""},
		"in the first group":     {"networking: {podSubnet: 10.0.0.0/25}, controlPlanes: [{" + ownMask + "}], workers: [{}]", ""},
		"ports of two families":  {"networking: {apiPort: 7, apiAddress: '::'}, workers: [{ports: [{listenAddress: 0.0.0.0, hostPort: 7, containerPort: 3}]}]", ""},
		"ports of two protocols": {"networking: {apiPort: 7}, workers: [{ports: [{hostPort: 7, containerPort: 3, protocol: UDP}]}]", ""},
		"ports of two addresses": {"workers: [{ports: [{hostPort: 7, containerPort: 3}]}, {ports: [{listenAddress: 127.0.0.2, hostPort: 7, containerPort: 3}]}]", ""},
	} {
		t.Run(name, func(t *testing.T) {
			c := load(t, "spec: {image: node, "+test.text+"}")
			err := c.Validate()
			switch {
			case test.want == "" && err != nil:
				t.Error(err)
			case test.want != "" && (!errors.As(err, new(*recipes.InputError)) || !strings.Contains(err.Error(), test.want)):
				t.Errorf("got %v, want an *InputError with %q", err, test.want)
			}
		})
	}
}

// TestPaths holds that paths start from the file, whatever the working directory.
func TestPaths(t *testing.T) {
	dir := t.TempDir()
	for name, text := range map[string]string{
		"cluster.yaml": head + "spec: {image: layout, mounts: [{hostPath: ., containerPath: /a}], workers: [{image: layout:1}]}",
		"layout":       "",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	document, err := Load(filepath.Join(dir, "cluster.yaml"), nil)
	if err != nil {
		t.Fatal(err)
	}
	spec := document.Value.Spec
	if spec.Image != filepath.Join(dir, "layout") || spec.Mounts[0].HostPath != dir || spec.Workers[0].Image != "layout:1" {
		t.Errorf("got the paths %q and %q and the name %q", spec.Image, spec.Mounts[0].HostPath, spec.Workers[0].Image)
	}
}

// TestMembers holds what nodes get from the cluster and what from their group.
func TestMembers(t *testing.T) {
	spec := load(t, `
spec:
  image: all
  env: {A: all, B: all}
  memory: 2g
  kubeadmPatches: ["kind: JoinConfiguration"]
  workers:
  - count: 2
  - {image: other, env: {B: group}, memory: 1g, kubeadmPatches: ["{kind: JoinConfiguration, a: b}"], ports: [{hostPort: 8, containerPort: 9}, {containerPort: 10}]}
`).Spec
	members := spec.Members()
	if len(members) != 4 || members[0].Role != RoleControlPlane || members[3].Number != 3 {
		t.Fatalf("got %+v", members)
	}
	first, last := members[1], members[3]
	if first.Image != "all" || first.Env["B"] != "all" || first.Memory != "2g" || len(first.KubeadmPatches) != 1 {
		t.Errorf("the first worker is %+v", first)
	}
	if last.Image != "other" || last.Env["A"] != "all" || last.Env["B"] != "group" || last.Memory != "1g" || len(last.KubeadmPatches) != 2 {
		t.Errorf("the last worker is %+v", last)
	}
	if more := spec.Workers.Last(); more.Image != "other" || len(more.Ports) != 1 || more.Ports[0].ContainerPort != 10 || more.Count != 1 {
		t.Errorf("more workers are like %+v", more)
	}
	if len(spec.Workers[1].Ports) != 2 {
		t.Errorf("asking for the last group changed it: %+v", spec.Workers[1])
	}
}

// TestSingle takes each node out of groups of one and three.
func TestSingle(t *testing.T) {
	groups := Groups{{Count: 1, Image: "a"}, {Count: 3, Image: "b"}}
	for number, want := range map[int]string{1: "[1a] 3b", 2: "1a [1b] 2b", 3: "1a 1b [1b] 1b", 4: "1a 2b [1b]"} {
		split, index := groups.Single(number)
		var got []string
		for i, g := range split {
			text := string(rune('0'+g.Count)) + g.Image
			if i == index {
				text = "[" + text + "]"
			}
			got = append(got, text)
		}
		if strings.Join(got, " ") != want {
			t.Errorf("%d: got %v, want %s", number, got, want)
		}
	}
	if _, index := groups.Single(5); index != -1 {
		t.Errorf("there is no fifth node, but it has the index %d", index)
	}
}

// TestSinglePatches holds that groups stay valid when nodes are taken out of them, and that no node gets or loses a patch that matters to it.
func TestSinglePatches(t *testing.T) {
	patched := load(t, `
spec:
  controlPlanes:
  - count: 3
    kubeadmPatches: ["kind: ClusterConfiguration", "kind: JoinConfiguration", "kind: KubeletConfiguration"]
    kubeadmPatchesJSON6902: [{kind: InitConfiguration, patch: "[]"}, {kind: JoinConfiguration, patch: "[]"}]
`)
	for number := 1; number <= 3; number++ {
		c := patched
		c.Spec.ControlPlanes, _ = patched.Spec.ControlPlanes.Single(number)
		if err := c.Validate(); err != nil {
			t.Errorf("with the node %d by itself: %v", number, err)
		}
		first, last := c.Spec.Members()[0], c.Spec.Members()[2]
		if len(first.KubeadmPatches) != 3 || len(first.KubeadmPatchesJSON6902) != 2 {
			t.Errorf("with the node %d by itself the first one has the patches %v and %v", number, first.KubeadmPatches, first.KubeadmPatchesJSON6902)
		}
		if !slices.Contains(last.KubeadmPatches, "kind: JoinConfiguration") || !slices.Contains(last.KubeadmPatches, "kind: KubeletConfiguration") {
			t.Errorf("with the node %d by itself the last one has the patches %v", number, last.KubeadmPatches)
		}
	}
}
