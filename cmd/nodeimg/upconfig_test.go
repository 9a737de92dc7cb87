package main

import (
	"errors"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/spf13/pflag"

	"github.com/nodeimg/nodeimg/cluster/config"
	"github.com/nodeimg/nodeimg/internal/dockerengine"
	"github.com/nodeimg/nodeimg/recipes"
)

// TestDescribe holds that flags end in the same description as a file does, and that they have their say over it.
func TestDescribe(t *testing.T) {
	t.Setenv("FROM_HERE", "here")
	dir := t.TempDir()
	file := filepath.Join(dir, "cluster.yaml")
	const text = `
apiVersion: nodeimg.dev/v1alpha1
kind: Cluster
metadata: {name: filed}
spec:
  image: filed
  env: {A: file, B: file}
  workers: [{count: 3, memory: 1g, env: {A: group, C: group}}]
  networking: {podSubnet: 10.1.0.0/16, apiPort: 1000}
`
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	dual := filepath.Join(dir, "dual.yaml")
	if err := os.WriteFile(dual, []byte("apiVersion: nodeimg.dev/v1alpha1\nkind: Cluster\nmetadata: {name: filed}\nspec: {image: filed, networking: {ipFamily: dual}}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	three := filepath.Join(dir, "three.yaml")
	const patch = "{kind: ClusterConfiguration}"
	if err := os.WriteFile(three, []byte("apiVersion: nodeimg.dev/v1alpha1\nkind: Cluster\nmetadata: {name: filed}\n"+
		"spec: {image: filed, controlPlanes: [{count: 3, kubeadmPatches: ['"+patch+"']}]}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	one := config.Groups{{Count: 1}}
	for name, test := range map[string]struct {
		args []string
		want config.Spec
	}{
		"image alone": {[]string{"node"}, config.Spec{Image: "node", ControlPlanes: one}},
		"images of roles": {
			[]string{"--image", "node", "--workers", "2", "--image", "worker=other:v1@sha256:0"},
			config.Spec{Image: "node", ControlPlanes: one, Workers: config.Groups{{Count: 2, Image: "other:v1@sha256:0"}}},
		},
		"nodes in all": {
			[]string{"node", "--nodes", "5", "--control-planes", "3"},
			config.Spec{Image: "node", ControlPlanes: config.Groups{{Count: 3}}, Workers: config.Groups{{Count: 2}}},
		},
		"containers": {
			[]string{"node", "-v", dir + ":/data:ro", "-e", "A=b=c", "-e", "FROM_HERE", "--memory", "2g", "--cpus", "1.5", "--privileged", "--runtime", "runc"},
			config.Spec{
				Image: "node", ControlPlanes: one, Memory: "2g", CPUs: 1.5, Privileged: true, Runtime: "runc",
				Mounts: []config.Mount{{HostPath: dir, ContainerPath: "/data", ReadOnly: true}}, Env: map[string]string{"A": "b=c", "FROM_HERE": "here"},
			},
		},
		"ports": {
			[]string{"node", "--workers", "3", "-p", "8080:30080", "-p", "worker-2=0.0.0.0:53:30053/udp", "-p", "worker-2=30081"},
			config.Spec{
				Image:         "node",
				ControlPlanes: config.Groups{{Count: 1, Ports: []config.Port{{HostPort: 8080, ContainerPort: 30080, Protocol: "TCP"}}}},
				Workers: config.Groups{{Count: 1}, {Count: 1, Ports: []config.Port{
					{ListenAddress: "0.0.0.0", HostPort: 53, ContainerPort: 30053, Protocol: "UDP"}, {ContainerPort: 30081, Protocol: "TCP"},
				}}, {Count: 1}},
			},
		},
		"networking": {
			[]string{"node", "--network", "mine", "--ip-family", "dual", "--cni", "bridge", "--kube-proxy-mode", "nftables", "--api-address", "0.0.0.0", "--api-port", "7000"},
			config.Spec{Image: "node", ControlPlanes: one, Networking: config.Networking{
				Network: "mine", IPFamily: "dual", CNI: "bridge", KubeProxyMode: "nftables", APIAddress: "0.0.0.0", APIPort: 7000,
				PodSubnet: "10.244.0.0/16,fd00:10:244::/56", ServiceSubnet: "10.96.0.0/16,fd00:10:96::/112",
			}},
		},
		"another family than in a file": {
			[]string{"--config", dual, "--ip-family", "ipv4"},
			config.Spec{Image: "filed", ControlPlanes: one, Networking: config.Networking{IPFamily: "ipv4"}},
		},
		"a port of one of several control planes": {
			[]string{"--config", three, "-p", "8080:30080"},
			config.Spec{Image: "filed", ControlPlanes: config.Groups{
				{Count: 1, KubeadmPatches: []string{patch}, Ports: []config.Port{{HostPort: 8080, ContainerPort: 30080, Protocol: "TCP"}}}, {Count: 2},
			}},
		},
		"over a file": {
			[]string{"--config", file, "node", "--workers", "1", "--memory", "2g", "-e", "A=flag", "--pod-subnet", "10.2.0.0/16"},
			config.Spec{
				Image: "node", ControlPlanes: one, Memory: "2g", Env: map[string]string{"A": "flag", "B": "file"},
				Workers:    config.Groups{{Count: 1, Env: map[string]string{"C": "group"}}},
				Networking: config.Networking{PodSubnet: "10.2.0.0/16", APIPort: 1000},
			},
		},
	} {
		t.Run(name, func(t *testing.T) {
			got, options := described(t, test.args)
			if diff := cmp.Diff(test.want, got.Spec, cmpopts.EquateEmpty()); diff != "" {
				t.Errorf("descriptions differ (-want +got):\n%s", diff)
			}
			if want := map[bool]string{true: "filed", false: "nodeimg"}[options.file != ""]; got.Metadata.Name != want {
				t.Errorf("got the name %s, want %s", got.Metadata.Name, want)
			}
		})
	}
}

// described is what up makes of the arguments, of which at most one is no flag.
func described(t *testing.T, args []string) (*describer, describeOptions) {
	t.Helper()
	var options describeOptions
	flags := pflag.NewFlagSet("up", pflag.ContinueOnError)
	options.register(flags)
	if err := flags.Parse(args); err != nil {
		t.Fatal(err)
	}
	d, err := options.describe(flags, strings.Join(flags.Args(), ""), nil)
	if err != nil {
		t.Fatal(err)
	}
	return d, options
}

// TestImagesLocated gives images that are neither files nor names that an Engine could have, so that none has to answer.
func TestImagesLocated(t *testing.T) {
	dir := t.TempDir()
	file, recipe := filepath.Join(dir, "cluster.yaml"), filepath.Join(dir, "recipe.yaml")
	for name, text := range map[string]string{
		file:   "apiVersion: nodeimg.dev/v1alpha1\nkind: Cluster\nspec:\n  image: First.yaml\n  workers:\n  - {image: Second.yaml}\n  - {image: recipe.yaml}\n",
		recipe: "kind: NodeImge\n",
	} {
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	const missing = `, and there is no such file or folder`
	for name, test := range map[string]struct {
		args []string
		want string
	}{
		"argument":         {[]string{"Recipe.yaml"}, `^the Docker Engine has no image "Recipe.yaml"; .*` + missing + `$`},
		"two tags":         {[]string{"k8s:v1:x"}, `^the Docker Engine has no image "k8s:v1:x"; .*` + missing + `$`},
		"flag":             {[]string{"--image", "A.yaml"}, `^--image A.yaml: the Docker Engine has no image "A.yaml"`},
		"flag of a role":   {[]string{"--workers", "1", "--image", "worker=B.yaml", "--image", "control-plane=A.yaml"}, `^--image control-plane=A.yaml: the Docker Engine has no image "A.yaml"`},
		"file":             {[]string{"--config", file}, `cluster.yaml:4:10: spec.image: the Docker Engine has no image "First.yaml"`},
		"argument, file":   {[]string{"--config", file, "Recipe.yaml"}, `^the Docker Engine has no image "Recipe.yaml"`},
		"group":            {[]string{"--config", file, "-p", "worker-1=80:80"}, `cluster.yaml:6:13: spec.workers\[0\].image: the Docker Engine has no image "Second.yaml"`},
		"recipe of a file": {[]string{"--config", file}, `(^|\n)[^ ]*recipe.yaml:1:7: kind: `},
	} {
		t.Run(name, func(t *testing.T) {
			d, _ := described(t, test.args)
			switch name { // What is wrong comes one at a time.
			case "group":
				d.Spec.Image = ""
			case "recipe of a file":
				d.Spec.Image, d.Spec.Workers = "", d.Spec.Workers[1:]
			}
			err := loadNodeImages(t.Context(), &dockerengine.Engine{}, &d.Spec, d.imageLocated)
			input := new(recipes.InputError)
			if !errors.As(err, &input) || !regexp.MustCompile(test.want).MatchString(input.Error()) {
				t.Errorf("got %v, want %s", err, test.want)
			}
		})
	}
}

// TestIsText tells recipes from archives.
func TestIsText(t *testing.T) {
	dir := t.TempDir()
	for name, test := range map[string]struct {
		content string
		want    bool
	}{
		"short":              {"kind: NodeImage\n", true},
		"empty":              {"", true},
		"cut in a character": {strings.Repeat("a", 511) + "é", true},
		"tar":                {"oci-layout" + strings.Repeat("\x00", 600), false},
		"gzip":               {"\x1f\x8b\x08" + strings.Repeat("\x00", 600), false},
		"zstd":               {"\x28\xb5\x2f\xfd" + strings.Repeat("x", 600), false},
	} {
		file := filepath.Join(dir, name)
		if err := os.WriteFile(file, []byte(test.content), 0o600); err != nil {
			t.Fatal(err)
		}
		if got, err := isText(file); got != test.want || err != nil {
			t.Errorf("%s: got %v, %v", name, got, err)
		}
	}
	if got, err := isText(dir); got || err != nil {
		t.Errorf("a folder: got %v, %v", got, err)
	}
}
