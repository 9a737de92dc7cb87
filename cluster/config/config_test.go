package config

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
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
		"second document":    {"spec: {image: a}\n---\n" + head, "<stdin>:5:1: found a second cluster"},
		"another kind":       {"kind: Recipe", `kind: found "Recipe", expected Cluster`},
		"network of Docker":  {"spec: {networking: {network: bridge}}", "<stdin>:3:30: spec.networking.network: found bridge, where nodes do not find each other"},
		"subnets overlap":    {"spec: {networking: {podSubnet: 10.0.0.0/8, serviceSubnet: 10.1.0.0/16}}", "serviceSubnet: found 10.1.0.0/16, which overlaps with the podSubnet 10.0.0.0/8"},
		"two subnets":        {"spec: {networking: {podSubnet: '10.0.0.0/16,fd00::/56'}}", "podSubnet: found \"10.0.0.0/16,fd00::/56\", expected one IPv4 subnet; ipFamily: ipv6"},
		"wrong family":       {"spec: {networking: {ipFamily: ipv6, serviceSubnet: 10.0.0.0/16}}", "serviceSubnet: found \"10.0.0.0/16\", expected one IPv6 subnet"},
		"one subnet":         {"spec: {networking: {ipFamily: dual, podSubnet: 10.0.0.0/16}}", "podSubnet: found \"10.0.0.0/16\", expected one subnet of each family"},
		"port twice":         {"spec: {workers: [{ports: [{hostPort: 1, containerPort: 2}]}, {ports: [{hostPort: 1, containerPort: 3}]}]}", "spec.workers[1].ports[0].hostPort: found 1 again, it is already that of spec.workers[0].ports[0]"},
		"port too large":     {"spec: {workers: [{ports: [{containerPort: 65536}]}]}", "containerPort: found 65536, expected a number from 1 to 65535"},
		"address":            {"spec: {workers: [{ports: [{listenAddress: home, containerPort: 2}]}]}", "listenAddress: found \"home\", expected an address"},
		"mount twice":        {"spec: {mounts: [{hostPath: ., containerPath: /a}, {hostPath: ., containerPath: /a}]}", "spec.mounts[1].containerPath: found \"/a\" again"},
		"mount for all":      {"spec: {mounts: [{hostPath: ., containerPath: /a}], workers: [{mounts: [{hostPath: ., containerPath: /a}]}]}", "spec.workers[0].mounts[0].containerPath: found \"/a\", where spec.mounts has"},
		"taint twice":        {"spec: {workers: [{taints: [{key: a, effect: NoSchedule}, {key: a, value: b, effect: NoSchedule}]}]}", "spec.workers[0].taints[1]: found a:NoSchedule again"},
		"taint without key":  {"spec: {workers: [{taints: [{effect: NoSchedule}]}]}", "taints[0].key: is missing, expected the name of a taint"},
		"label":              {"spec: {workers: [{labels: {a: 'b c'}}]}", "labels[a]: found the value \"b c\" of a label"},
		"processors":         {"spec: {cpus: -1}", "<stdin>:3:14: spec.cpus: found -1, expected a number of at least 0"},
		"memory":             {"spec: {memory: 5m}", "spec.memory: found \"5m\", expected an amount of memory of at least 6m"},
		"gate":               {"spec: {featureGates: {A-B: true}}", "spec.featureGates[A-B]: found \"A-B\", expected a feature gate"},
		"group of the API":   {"spec: {runtimeConfig: {api/all: 'on'}}", "spec.runtimeConfig[api/all]: found \"on\", expected \"true\" or \"false\""},
		"patch without kind": {"spec: {kubeadmPatches: ['a: b']}", "spec.kubeadmPatches[0]: found a patch without kind"},
		"patch is no YAML":   {"spec: {kubeadmPatches: ['- a']}", "spec.kubeadmPatches[0]: found text that is no YAML mapping"},
		"operation":          {"spec: {kubeadmPatchesJSON6902: [{kind: JoinConfiguration, patch: '[{op: add}]'}]}", "patch: found text that is no list of operations"},
		"worker's kind":      {"spec: {workers: [{kubeadmPatchesJSON6902: [{kind: KubeProxyConfiguration, patch: '[]'}]}]}", "expected JoinConfiguration or KubeletConfiguration here"},
		"mirror":             {"spec: {registryMirrors: {docker.io: []}}", "spec.registryMirrors[docker.io]: found no mirror"},
		"mirror's registry":  {"spec: {registryMirrors: {'https://docker.io': [https://a.example]}}", "expected its host alone"},
		"line break":         {"spec: {runtime: \"a\\nb\"}", "spec.runtime: found \"a\\nb\", expected text without control characters"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := Load("-", strings.NewReader(head+test.text))
			if !errors.As(err, new(*recipes.InputError)) || !strings.Contains(err.Error(), test.want) {
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
