package dockerfiles_test

import (
	"bytes"
	"cmp"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	gocmp "github.com/google/go-cmp/cmp"
	"github.com/moby/buildkit/frontend/dockerfile/instructions"
	"github.com/moby/buildkit/frontend/dockerfile/parser"
	"github.com/opencontainers/go-digest"
	"github.com/rogpeppe/go-internal/txtar"

	"github.com/nodeimg/nodeimg/dockerfiles"
	"github.com/nodeimg/nodeimg/recipes"
)

var update = flag.Bool("update", false, "rewrite the golden files")

const source = `
apiVersion: nodeimg.dev/v1alpha1
kind: NodeImage
metadata: {name: test}
spec:
  kubernetes: {version: %s}
  platforms: [linux/amd64]
`

// variants are recipes with one option each; the shipped recipes are goldens too.
var variants = map[string]string{
	"minimal":          fmt.Sprintf(source, "v1.34.10"),
	"kubernetes-130":   fmt.Sprintf(source, "v1.30.2"),
	"no-cni":           fmt.Sprintf(source, "v1.34.10") + "  cni: {name: none}\n",
	"no-storage":       fmt.Sprintf(source, "v1.34.10") + "  storage: {name: none}\n",
	"bridge":           fmt.Sprintf(source, "v1.34.10") + "  cni: {name: bridge}\n",
	"modules":          fmt.Sprintf(source, "v1.34.10")[:len(fmt.Sprintf(source, "v1.34.10"))-len("  platforms: [linux/amd64]\n")] + "  base: {from: packages}\n  platforms: [linux/amd64]\n",
	"run":              fmt.Sprintf(source, "v1.34.10") + "  run:\n    - echo one\n    - |\n      set -x\n      echo \"two $HOME\" NODEIMG\n",
	"inner":            fmt.Sprintf(source, "v1.34.10") + "  preload:\n    engine: inner\n    images: [\"docker.io/library/nginx:1.29\"]\n",
	"images":           fmt.Sprintf(source, "v1.34.10") + "  preload:\n    images: [\"docker.io/library/nginx:1.29\", \"docker.io/library/redis:8\"]\n",
	"packages":         fmt.Sprintf(source, "v1.34.10") + "  packages: [jq]\n",
	"files":            fmt.Sprintf(source, "v1.34.10") + "  files:\n    - {source: testdata/host/motd, target: /etc/motd, mode: \"0600\"}\n    - {source: testdata/host/tree, target: /opt/tree}\n",
	"certificates":     fmt.Sprintf(source, "v1.34.10") + "  caCertificates: [testdata/host/corporate.pem]\n",
	"mirrors":          fmt.Sprintf(source, "v1.34.10") + "  mirrors: {registry.k8s.io: \"https://mirror.example/k8s\"}\n",
	"docker":           fmt.Sprintf(source, "v1.34.10") + "  cri: {name: docker}\n  preload: {engine: inner}\n",
	"crio":             fmt.Sprintf(source, "v1.34.10") + "  cri: {name: crio}\n",
	"no-control-plane": fmt.Sprintf(source, "v1.34.10") + "  preload: {controlPlane: false}\n",
}

// lockFor is a lock such as resolving the recipe would yield, with digests made from names.
func lockFor(r recipes.Recipe) recipes.Lock {
	d := func(s string) string { return digest.FromString(s).String() }
	lock := recipes.Lock{
		APIVersion: recipes.APIVersion, Kind: "Lock", Recipe: r.Digest(), Platform: "linux/amd64",
		Base: recipes.LockedBase{Distro: r.Spec.Base.Distro, Release: r.Spec.Base.Release, Reference: r.Spec.Base.Image, Digest: d("base")},
		Parts: []recipes.LockedPart{
			{Name: "kubernetes", Version: r.Spec.Kubernetes.Version, Path: "/usr/bin/kubeadm", Digest: d("kubeadm"), Size: 7},
			{Name: "containerd", Version: "v" + r.Spec.CRI.Version, Path: "/usr/local/bin/containerd", Digest: d("containerd"), Size: 10},
		},
		Packages: []recipes.LockedPackage{{Name: "systemd", Version: "1:252.39-1~deb12u1", Architecture: "amd64", URL: "http://mirror.example/systemd.deb", Digest: d("systemd"), Size: 7}},
	}
	for _, name := range r.Spec.Packages {
		lock.Packages = append(lock.Packages, recipes.LockedPackage{Name: name, Version: "1", Architecture: "amd64", Digest: d(name)})
	}
	for _, f := range r.Spec.Files {
		lock.Files = append(lock.Files, recipes.LockedFile{Target: f.Target, Mode: cmp.Or(f.Mode, "0755"), Digest: d(f.Source)})
	}
	if len(lock.Files) > 0 {
		lock.Files = append(lock.Files, recipes.LockedFile{Target: "/opt/link", Link: "tree"})
	}
	for _, name := range r.Spec.CACertificates {
		lock.Files = append(lock.Files, recipes.LockedFile{Target: recipes.CertificatesPath + "/corporate.crt", Mode: "0644", Digest: d(name)})
	}
	image := func(reference string, role recipes.ImageRole, source recipes.ImageSource) {
		lock.Images = append(lock.Images, recipes.LockedImage{Reference: reference, Digest: d(reference), Manifest: d(reference), Size: 100, Bytes: 1000, Platform: lock.Platform, Role: role, Source: source})
	}
	if all := r.Spec.Preload.ControlPlane; all == nil || *all {
		image("registry.k8s.io/kube-apiserver:"+r.Spec.Kubernetes.Version, recipes.RoleControlPlane, recipes.ImageSource{})
		image("registry.k8s.io/etcd:3.6.5-0", recipes.RoleEtcd, recipes.ImageSource{})
		image("registry.k8s.io/coredns/coredns:v1.12.1", recipes.RoleDNS, recipes.ImageSource{})
	}
	image("registry.k8s.io/pause:3.10.1", recipes.RoleSandbox, recipes.ImageSource{})
	if all := r.Spec.Preload.ControlPlane; r.Spec.CNI.Name == recipes.CNIFlannel && (all == nil || *all) {
		image("ghcr.io/flannel-io/flannel:v0.28.4", recipes.RoleCNI, recipes.ImageSource{})
		if r.Spec.Kubernetes.Source == recipes.SourceRelease {
			image("ghcr.io/flannel-io/flannel-cni-plugin:v1.9.1-flannel1", recipes.RoleCNI, recipes.ImageSource{})
		}
	}
	if all := r.Spec.Preload.ControlPlane; r.Spec.Storage.Name == recipes.StorageLocalPath && (all == nil || *all) {
		image("docker.io/rancher/local-path-provisioner:v0.0.30", recipes.RoleStorage, recipes.ImageSource{})
	}
	for _, src := range r.Spec.Preload.Images {
		image(src.Registry, recipes.RoleUser, src)
	}
	return lock
}

func load(t *testing.T, name string, text []byte) recipes.Recipe {
	t.Helper()
	documents, err := recipes.Load("-", bytes.NewReader(text))
	if err != nil {
		t.Fatalf("loading %s: %v", name, err)
	}
	return documents[0].Recipe
}

func cases(t *testing.T) map[string]recipes.Recipe {
	t.Helper()
	all := map[string]recipes.Recipe{}
	for name, text := range variants {
		all[name] = load(t, name, []byte(text))
	}
	shipped, err := fs.Glob(recipes.Shipped(), "*.yaml")
	if err != nil || len(shipped) < 5 {
		t.Fatalf("finding the shipped recipes: %v %v", shipped, err)
	}
	for _, name := range shipped {
		text, err := fs.ReadFile(recipes.Shipped(), name)
		if err != nil {
			t.Fatal(err)
		}
		all[strings.TrimSuffix(name, ".yaml")] = load(t, name, text)
	}
	return all
}

// golden prints everything that Compile returned: what is rendered in full, the rest as a listing.
func golden(result *dockerfiles.Result) []byte {
	archive := &txtar.Archive{Files: []txtar.File{{Name: "Dockerfile", Data: result.Dockerfile}}}
	var fields, listing bytes.Buffer
	for _, f := range result.Fields {
		fmt.Fprintf(&fields, "%d-%d %s\n", f.First, f.Last, f.Field)
	}
	for _, c := range result.Contexts {
		fmt.Fprintf(&listing, "%s %s\n", c.Name, c.Layout)
		for _, f := range c.Files {
			fmt.Fprintf(&listing, "  %v %s %s%s\n", f.Mode, f.Path, f.Blob, f.Link)
		}
	}
	archive.Files = append(archive.Files, txtar.File{Name: "fields", Data: fields.Bytes()}, txtar.File{Name: "contexts", Data: listing.Bytes()})
	for _, c := range result.Contexts {
		for _, f := range c.Files {
			if c.Name == "node-files" && !strings.HasPrefix(f.Path, "usr/lib/") && !strings.HasPrefix(f.Path, "etc/systemd/") {
				archive.Files = append(archive.Files, txtar.File{Name: f.Path, Data: f.Content})
			}
		}
	}
	return txtar.Format(archive)
}

func TestCompileGolden(t *testing.T) {
	for name, recipe := range cases(t) {
		t.Run(name, func(t *testing.T) {
			result, err := dockerfiles.Compile(recipe, lockFor(recipe), dockerfiles.PreloadFor(recipe))
			if err != nil {
				t.Fatal(err)
			}
			got := golden(result)
			file := filepath.Join("testdata", name+".txtar")
			if *update {
				if err := os.WriteFile(file, got, 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			if diff := gocmp.Diff(string(want), string(got)); diff != "" {
				t.Errorf("compiled output differs from %s (-want +got); run go test ./dockerfiles -update and read the diff:\n%s", file, diff)
			}
		})
	}
}

// TestDockerfileParses gives every compiled Dockerfile to BuildKit's own parser and checks the promises that hold for all of them.
func TestDockerfileParses(t *testing.T) {
	for name, recipe := range cases(t) {
		for _, preload := range []dockerfiles.Preload{dockerfiles.PreloadPull, dockerfiles.PreloadNone, dockerfiles.PreloadContext} {
			t.Run(fmt.Sprintf("%s/%d", name, preload), func(t *testing.T) {
				lock := lockFor(recipe)
				result, err := dockerfiles.Compile(recipe, lock, preload)
				if err != nil {
					t.Fatal(err)
				}
				parsed, err := parser.Parse(bytes.NewReader(result.Dockerfile))
				if err != nil {
					t.Fatalf("parsing: %v\n%s", err, result.Dockerfile)
				}
				stages, _, err := instructions.Parse(parsed.AST, nil)
				if err != nil {
					t.Fatalf("parsing: %v\n%s", err, result.Dockerfile)
				}
				names := []string{}
				for _, c := range result.Contexts {
					names = append(names, c.Name)
				}
				pulls := 0
				for _, stage := range stages {
					if !slices.Contains(names, stage.BaseName) {
						t.Errorf("stage %q starts from %q, which is neither a context nor an earlier stage (%v)", stage.Name, stage.BaseName, names)
					}
					names = append(names, stage.Name)
					for _, command := range stage.Commands {
						if run, ok := command.(*instructions.RunCommand); ok {
							if err := run.Expand(func(word string) (string, error) { return word, nil }); err != nil {
								t.Fatal(err)
							}
							if instructions.GetNetwork(run) != instructions.NetworkNone {
								t.Errorf("a RUN of stage %q has a network: %v", stage.Name, run)
							}
							if strings.Contains(run.String(), "pull.sh") {
								pulls++
							}
						}
					}
				}
				want := 0
				if preload == dockerfiles.PreloadPull {
					want = len(lock.Images)
				}
				if pulls != want {
					t.Errorf("%d pull steps, want %d", pulls, want)
				}
			})
		}
	}
}

func TestCompileIsPure(t *testing.T) {
	for name, recipe := range cases(t) {
		lock := lockFor(recipe)
		first, err := dockerfiles.Compile(recipe, lock, dockerfiles.PreloadPull)
		if err != nil {
			t.Fatal(err)
		}
		second, err := dockerfiles.Compile(recipe, lock, dockerfiles.PreloadPull)
		if err != nil {
			t.Fatal(err)
		}
		if diff := gocmp.Diff(first, second); diff != "" {
			t.Errorf("compiling %s twice differs:\n%s", name, diff)
		}
	}
}

func TestFieldOfLine(t *testing.T) {
	recipe := load(t, "run", []byte(variants["run"]))
	result, err := dockerfiles.Compile(recipe, lockFor(recipe), dockerfiles.PreloadPull)
	if err != nil {
		t.Fatal(err)
	}
	for i, line := range strings.Split(string(result.Dockerfile), "\n") {
		switch {
		case strings.Contains(line, "echo one"):
			if got := result.Field(i + 1); got != "spec.run[0]" {
				t.Errorf("line %d %q comes from %q, want spec.run[0]", i+1, line, got)
			}
		case strings.Contains(line, "echo \"two"):
			if got := result.Field(i + 1); got != "spec.run[1]" {
				t.Errorf("line %d %q comes from %q, want spec.run[1]", i+1, line, got)
			}
		}
	}
}

func TestCompileRefuses(t *testing.T) {
	recipe := load(t, "minimal", []byte(variants["minimal"]))
	noSandbox := lockFor(recipe)
	noSandbox.Images = nil
	other := lockFor(recipe)
	other.Base.Distro = "fedora"
	for name, test := range map[string]struct {
		lock recipes.Lock
		want string
	}{
		"no sandbox image":     {noSandbox, "names no sandbox image"},
		"unknown distribution": {other, `no Dockerfile template for the distribution "fedora"`},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := dockerfiles.Compile(recipe, test.lock, dockerfiles.PreloadPull)
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Fatalf("got %v, want an error with %q", err, test.want)
			}
		})
	}
}

func BenchmarkCompile(b *testing.B) {
	documents, err := recipes.Load("-", strings.NewReader(variants["images"]))
	if err != nil {
		b.Fatal(err)
	}
	recipe := documents[0].Recipe
	lock := lockFor(recipe)
	for b.Loop() {
		if _, err := dockerfiles.Compile(recipe, lock, dockerfiles.PreloadPull); err != nil {
			b.Fatal(err)
		}
	}
}
