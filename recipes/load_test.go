package recipes

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/google/go-cmp/cmp"
	"github.com/rogpeppe/go-internal/txtar"

	"github.com/nodeimg/nodeimg/internal/golden"
	"github.com/nodeimg/nodeimg/internal/strictyaml"
)

// TestErrors loads the recipe of every archive in testdata/errors and compares the error with the archive's file "want".
func TestErrors(t *testing.T) {
	golden.Run(t, "testdata/errors/*.txtar", "want", func(t *testing.T, archive golden.Archive) string {
		t.Chdir(t.TempDir())
		if err := txtar.Write(archive.Archive, "."); err != nil {
			t.Fatal(err)
		}
		documents, err := Load("recipe.yaml", nil)
		var input *InputError
		if !errors.As(err, &input) || documents != nil {
			t.Fatalf("got %d documents and error %v, want an *InputError", len(documents), err)
		}
		got := err.Error() + "\n"
		if strings.Contains(got, "secret") {
			t.Errorf("the error repeats a secret:\n%s", got)
		}
		return got
	})
}

const minimal = `apiVersion: nodeimg.dev/v1alpha1
kind: NodeImage
metadata: {name: minimal}
spec:
  kubernetes: {version: v1.34.10}
`

func loadText(t *testing.T, text string) *Document {
	t.Helper()
	documents, err := Load("-", strings.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	if len(documents) != 1 {
		t.Fatalf("got %d documents, want 1", len(documents))
	}
	return documents[0]
}

func TestDefaults(t *testing.T) {
	for _, test := range []struct {
		name, more string
		want       Spec
	}{
		{"all", "", Spec{
			Base: Base{Distro: "debian", Release: "12", From: FromImage, Image: "docker.io/library/debian:12"},
			CRI:  CRI{Name: CRIContainerd, Version: DefaultContainerdVersion},
		}},
		{"ubuntu", "  base: {distro: ubuntu}\n", Spec{
			Base: Base{Distro: "ubuntu", Release: "24.04", From: FromImage, Image: "docker.io/library/ubuntu:24.04"},
			CRI:  CRI{Name: CRIContainerd, Version: DefaultContainerdVersion},
		}},
		{"packages have no image", "  base: {from: packages, release: \"13\"}\n", Spec{
			Base: Base{Distro: "debian", Release: "13", From: FromPackages},
			CRI:  CRI{Name: CRIContainerd, Version: DefaultContainerdVersion},
		}},
		{"short image name", "  base: {image: debian:12-slim}\n  cri: {version: 2.1.4}\n", Spec{
			Base: Base{Distro: "debian", Release: "12", From: FromImage, Image: "docker.io/library/debian:12-slim"},
			CRI:  CRI{Name: CRIContainerd, Version: "2.1.4"},
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			test.want.Kubernetes = Kubernetes{Version: "v1.34.10", Source: SourceRelease}
			test.want.CNI.Name, test.want.Storage.Name = CNIFlannel, StorageLocalPath
			test.want.Preload = Preload{ControlPlane: new(true), Engine: EngineAuto, Layout: LayoutUnpacked, MaxLayers: DefaultMaxLayers}
			test.want.Platforms = []string{HostPlatform()}
			if diff := cmp.Diff(test.want, loadText(t, minimal+test.more).Recipe.Spec); diff != "" {
				t.Errorf("specs differ (-want +got):\n%s", diff)
			}
		})
	}
}

func TestLoadFields(t *testing.T) {
	dir := t.TempDir()
	for name, text := range map[string]string{
		"app.tar": "x", "oci/oci-layout": "{}", "motd": "hello",
		"ca.pem":      "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
		"recipe.yaml": strings.ReplaceAll(string(fullRecipe), "\n", "\r\n"),
	} {
		file := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	file := filepath.Join(dir, "recipe.yaml")
	documents, err := Load(file, nil)
	if err != nil {
		t.Fatal(err)
	}
	want := Recipe{
		APIVersion: APIVersion, Kind: Kind, Metadata: Metadata{Name: "full"},
		Spec: Spec{
			Kubernetes: Kubernetes{Version: "v1.35.0-rc.1", Source: SourceModules},
			Base:       Base{Distro: "ubuntu", Release: "22.04", From: FromPackages},
			CRI:        CRI{Name: CRIContainerd, Version: "2.0.4"},
			CNI:        CNI{Name: CNINone},
			Storage:    Storage{Name: StorageNone},
			Preload: Preload{ControlPlane: new(false), Engine: EngineInner, Layout: LayoutPacked, MaxLayers: DefaultMaxLayers, Images: []ImageSource{
				{Registry: "docker.io/library/nginx:1.29"},
				{Registry: "quay.io/a/b@sha256:" + strings.Repeat("0a", 32)},
				{Archive: "app.tar"}, {Docker: "docker.io/library/myapp:dev"}, {Layout: "oci"},
			}},
			Packages:       []string{"tcpdump", "g++"},
			Files:          []File{{Source: "motd", Target: "/etc/motd", Mode: "0755"}},
			Run:            []string{"true\nfalse || true\n", "no"},
			Mirrors:        map[string]string{"registry.k8s.io": "https://mirror.example/k8s", "debian": "http://127.0.0.1:8080", "localhost:5000": "http://a"},
			CACertificates: []string{"ca.pem"},
			Platforms:      []string{"linux/arm64"},
		},
	}
	if diff := cmp.Diff(want, documents[0].Recipe); diff != "" {
		t.Errorf("recipes differ (-want +got):\n%s", diff)
	}
	if d := documents[0]; d.File != file || d.Dir != dir || d.HostPath("motd") != filepath.Join(dir, "motd") || d.HostPath("/a/../b") != "/b" {
		t.Errorf("got file %s, dir %s, paths %s and %s", d.File, d.Dir, d.HostPath("motd"), d.HostPath("/a/../b"))
	}
}

const fullRecipe = `# A comment.
apiVersion: "nodeimg.dev/v1alpha1"
kind: 'NodeImage'
metadata:
  name: full
spec:
  kubernetes:
    version: &version v1.35.0-rc.1
    source: modules
  base: {distro: ubuntu, release: "22.04", from: packages}
  cri: {name: containerd, version: !!str 2.0.4}
  cni: {name: none}
  storage: {name: none}
  preload:
    controlPlane: False
    engine: inner
    images:
      - &image nginx:1.29
      - registry: quay.io/a/b@sha256:0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a
      - archive: ./app.tar
      - {docker: myapp:dev}
      - layout: oci/
  packages: [tcpdump, g++]
  files:
    - source: motd
      target: /etc/motd
      mode: "755"
  run:
    - |
      true
      false || true
    - "no"
  mirrors:
    registry.k8s.io: https://mirror.example/k8s/
    debian: http://127.0.0.1:8080
    localhost:5000: http://a
  caCertificates: [ca.pem]
  platforms: [linux/arm64]
`

func TestSeveralDocuments(t *testing.T) {
	text := "\ufeff# first\n---\n" + minimal + "---\n# nothing\n---\t# second\n" + strings.Replace(minimal, "name: minimal", "name: &n second", 1) + "...\n"
	documents, err := Load("-", strings.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	if len(documents) != 2 || documents[0].Recipe.Metadata.Name != "minimal" || documents[1].Recipe.Metadata.Name != "second" {
		t.Fatalf("got %d documents", len(documents))
	}
	if line, column := documents[1].Position("metadata.name"); line != 13 || column != 18 {
		t.Errorf("second name at %d:%d, want 13:18", line, column)
	}
}

func TestPosition(t *testing.T) {
	d := loadText(t, minimal+`  preload:
    images:
      - a:1
      - registry: b:1
  mirrors:
    registry.k8s.io: https://a.example
  run:
    - |
      true
`)
	for path, want := range map[string][2]int{
		"":                                     {1, 1},
		"kind":                                 {2, 7},
		"metadata":                             {3, 1},
		"metadata.name":                        {3, 18},
		"spec.kubernetes.version":              {5, 25},
		"spec.kubernetes.source":               {5, 3},
		"spec.preload":                         {6, 3},
		"spec.preload.images":                  {7, 5},
		"spec.preload.images[0]":               {8, 9},
		"spec.preload.images[1]":               {9, 9},
		"spec.preload.images[1].registry":      {9, 19},
		"spec.preload.images[7]":               {7, 5},
		"spec.preload.engine":                  {6, 3},
		"spec.mirrors[registry.k8s.io]":        {11, 22},
		"spec.mirrors[no.such.host]":           {10, 3},
		"spec.run[0]":                          {13, 7},
		"spec.base.distro":                     {4, 1},
		"no.such.field":                        {1, 1},
		"spec.preload.images[1].registry.more": {9, 19},
	} {
		if line, column := d.Position(path); [2]int{line, column} != want {
			t.Errorf("%q at %d:%d, want %v", path, line, column, want)
		}
	}
	if got, want := d.Problem("spec.preload.images[0]", "no %s", "image").String(), "<stdin>:8:9: spec.preload.images[0]: no image"; got != want {
		t.Errorf("got problem %q, want %q", got, want)
	}
}

func TestUnreadable(t *testing.T) {
	dir := t.TempDir()
	for _, test := range []struct{ name, text, want string }{
		{"large", strings.Repeat("#\n", MaxSize/2+1), "recipe: is larger than 1048576 bytes, which no recipe is"},
		{"binary", "\x00\xff\xfe", "recipe: is not UTF-8 text, expected a YAML file"},
		{"control", "a: \x01\n", `recipe:1:1: found "a: \x01", which is not valid YAML: control characters are not allowed`},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Chdir(dir)
			if err := os.WriteFile("recipe", []byte(test.text), 0o644); err != nil {
				t.Fatal(err)
			}
			wantInputError(t, "recipe", test.want)
		})
	}
	t.Run("missing", func(t *testing.T) { wantInputError(t, "no/such", "no/such: reading recipe: no such file or directory") })
	t.Run("directory", func(t *testing.T) {
		wantInputError(t, dir, dir+": reading recipe: is a directory, expected a YAML file")
	})
	t.Run("world", func(t *testing.T) {
		broken := errors.New("broken pipe")
		_, err := Load("-", iotest.ErrReader(broken))
		var input *InputError
		if !errors.Is(err, broken) || errors.As(err, &input) {
			t.Errorf("got %v, want an error of the world", err)
		}
	})
}

func wantInputError(t *testing.T, path, want string) {
	t.Helper()
	_, err := Load(path, nil)
	var input *InputError
	if !errors.As(err, &input) || err.Error() != want {
		t.Errorf("got error %v, want %s", err, want)
	}
}

// TestManyProblems loads files with more mistakes than anyone would read, the first with more than bytes: every alias stands for a
// mapping with very many mistakes.
func TestManyProblems(t *testing.T) {
	var unknown strings.Builder
	for i := range 20_000 {
		fmt.Fprintf(&unknown, "f%d: 1, ", i)
	}
	for name, text := range map[string]string{
		"aliases":   minimal + "  files:\n  - &f {" + unknown.String() + "}\n" + strings.Repeat("  - *f\n", 50_000),
		"values":    minimal + "  packages:\n" + strings.Repeat("  - A\n", 100_000),
		"documents": strings.Repeat("---\na: b\n", 50_000),
	} {
		t.Run(name, func(t *testing.T) {
			_, err := Load("-", strings.NewReader(text))
			var input *InputError
			if !errors.As(err, &input) {
				t.Fatalf("got %v, want an *InputError", err)
			}
			if n := len(input.Problems); n != strictyaml.MaxProblems+1 || !strings.HasSuffix(err.Error(), "has more mistakes than are shown; is this a recipe?") {
				t.Errorf("got %d problems, the last: %v", n, input.Problems[n-1])
			}
		})
	}
}

func TestInputErrorOrder(t *testing.T) {
	err := NewInputError(
		Problem{File: "b", Line: 2, Column: 1, Message: "3"}, Problem{File: "a", Line: 1, Column: 1, Message: "4"},
		Problem{File: "b", Line: 1, Column: 9, Message: "2"}, Problem{File: "b", Line: 1, Column: 2, Field: "f", Message: "1"},
	)
	if got, want := err.Error(), "b:1:2: f: 1\nb:1:9: 2\nb:2:1: 3\na:1:1: 4"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	var input *InputError
	if wrapped := fmt.Errorf("resolving: %w", InputErrorf("flag %s", "x")); !errors.As(wrapped, &input) || input.Problems[0].String() != "flag x" {
		t.Errorf("got %v", wrapped)
	}
}

// yamlBreak is what ends a line (YAML 1.1, section 5.4).
var yamlBreak = regexp.MustCompile("\r\n|[\r\n\u0085\u2028\u2029]")

// FuzzLoad checks that no text makes Load panic, and that what it accepts survives its own encoding.
func FuzzLoad(f *testing.F) {
	f.Add([]byte(minimal))
	f.Add([]byte(fullRecipe))
	f.Add(Template())
	archives, err := filepath.Glob("testdata/errors/*.txtar")
	if err != nil {
		f.Fatal(err)
	}
	for _, file := range archives {
		archive, err := txtar.ParseFile(file)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(archive.Files[0].Data)
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		documents, err := Load("-", strings.NewReader(string(text)))
		if err != nil {
			var input *InputError
			if !errors.As(err, &input) || len(input.Problems) == 0 {
				t.Fatalf("got %v, want an *InputError", err)
			}
			for _, p := range input.Problems {
				if p.Line < 0 || p.Line > 1+len(yamlBreak.FindAllIndex(text, -1)) || p.Message == "" {
					t.Errorf("problem outside the text: %+v", p)
				}
			}
			return
		}
		for _, d := range documents {
			again := loadText(t, string(d.Recipe.Canonical()))
			if got, want := again.Recipe.Digest(), d.Recipe.Digest(); got != want {
				t.Errorf("digest changed from %s to %s", want, got)
			}
			strictyaml.EachString(d.Recipe, func(path, value string, _ strictyaml.Field) {
				if line, _ := d.Position(path); line < 1 {
					t.Errorf("%s is nowhere", path)
				}
			})
		}
	})
}
