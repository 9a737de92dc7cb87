package recipes

import (
	"bytes"
	"io/fs"
	"reflect"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/santhosh-tekuri/jsonschema/v6"
	"sigs.k8s.io/yaml"

	"github.com/nodeimg/nodeimg/internal/strictyaml"
)

func TestDigest(t *testing.T) {
	base := loadText(t, minimal+"  packages: [jq, tcpdump]\n  preload: {images: [nginx:1.29]}\n").Recipe.Digest()
	for _, test := range []struct {
		name, text string
		same       bool
	}{
		{"order, comments, spelling", `# comment
spec:
    preload:
        engine: auto
        images:
            - registry: 'docker.io/library/nginx:1.29'   # comment
    packages:
        - tcpdump
        - "jq"
    kubernetes: {source: release, version: "v1.34.10"}
    base: {distro: debian}
metadata: {"name": "minimal"}
kind: NodeImage
apiVersion: nodeimg.dev/v1alpha1
`, true},
		{"package", minimal + "  packages: [jq]\n  preload: {images: [nginx:1.29]}\n", false},
		{"image", minimal + "  packages: [jq, tcpdump]\n  preload: {images: [nginx:1.28]}\n", false},
		{"name", strings.Replace(minimal, "name: minimal", "name: other", 1) + "  packages: [jq, tcpdump]\n  preload: {images: [nginx:1.29]}\n", false},
		{"control plane", minimal + "  packages: [jq, tcpdump]\n  preload: {images: [nginx:1.29], controlPlane: false}\n", false},
	} {
		t.Run(test.name, func(t *testing.T) {
			if got := loadText(t, test.text).Recipe.Digest(); (got == base) != test.same {
				t.Errorf("got %s, the other is %s, want same: %t", got, base, test.same)
			}
		})
	}
}

func TestDigestOfUndefaultedRecipe(t *testing.T) {
	r := Recipe{APIVersion: APIVersion, Kind: Kind, Metadata: Metadata{Name: "minimal"}, Spec: Spec{
		Kubernetes: Kubernetes{Version: "v1.34.10"}, Packages: []string{"bc", "ab"},
	}}
	want := loadText(t, minimal+"  packages: [ab, bc]\n").Recipe.Digest()
	if got := r.Digest(); got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	if r.Spec.CNI.Name != "" || r.Spec.Packages[0] != "bc" {
		t.Error("taking the digest changed the recipe")
	}
}

func TestContentID(t *testing.T) {
	r := &loadText(t, minimal).Recipe
	lock := &Lock{Recipe: r.Digest(), Platform: "linux/amd64", Base: LockedBase{Digest: "sha256:a"}}
	id := ContentID(r, lock)
	if !strings.HasPrefix(id, "sha256:") || id != ContentID(r, lock) {
		t.Errorf("got id %q", id)
	}
	other := *lock
	other.Base.Digest = "sha256:b"
	if id == ContentID(r, &other) {
		t.Error("another lock has the same id")
	}
	changed := *r
	changed.Metadata.Name = "other"
	if id == ContentID(&changed, lock) {
		t.Error("another recipe has the same id")
	}
}

// TestValidateWithoutFile checks a recipe that was made by code: problems have fields and no positions.
func TestValidateWithoutFile(t *testing.T) {
	var r Recipe
	r.Default()
	err := r.Validate(".")
	want := `apiVersion: found "", expected nodeimg.dev/v1alpha1
kind: found "", expected NodeImage
metadata.name: found "", expected at most 63 lower-case letters, digits and dashes, such as k8s-node
spec.kubernetes.version: found "", expected a full version with a leading v, such as v1.34.10`
	if err == nil || err.Error() != want {
		t.Errorf("got:\n%v\nwant:\n%s", err, want)
	}
	if err := loadText(t, minimal).Recipe.Validate("."); err != nil {
		t.Error(err)
	}
}

func TestFindDistro(t *testing.T) {
	for _, test := range []struct{ name, release, codename string }{
		{"debian", "", "bookworm"}, {"debian", "13", "trixie"}, {"ubuntu", "22.04", "jammy"}, {"ubuntu", "", "noble"},
		{"debian", "24.04", ""}, {"fedora", "", ""},
	} {
		d, ok := FindDistro(test.name, test.release)
		if d.Codename != test.codename || ok != (test.codename != "") {
			t.Errorf("FindDistro(%q, %q) = %v, %t", test.name, test.release, d, ok)
		}
	}
	names := map[string]bool{}
	for _, d := range Distros() {
		names[d.Name] = true
	}
	for _, f := range strictyaml.FieldsOf(reflect.TypeFor[Base]()) {
		if f.Name == "distro" {
			for _, name := range f.Enum {
				delete(names, name)
			}
		}
	}
	if len(names) > 0 {
		t.Errorf("the field distro does not list %v", names)
	}
}

// exampleRecipes returns the shipped recipes and the template.
func exampleRecipes(t *testing.T) map[string][]byte {
	t.Helper()
	texts := map[string][]byte{"template": Template()}
	files, err := fs.Glob(Shipped(), "*.yaml")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		if texts[file], err = fs.ReadFile(Shipped(), file); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"k8s-node", "k8s-node-crio", "k8s-node-docker", "k8s-node-source", "k8s-node-ubuntu", "k8s-node-with-app", "kind-node"} {
		if texts[name+".yaml"] == nil {
			t.Errorf("recipe %s is not shipped", name)
		}
	}
	return texts
}

func TestExampleRecipes(t *testing.T) {
	for name, text := range exampleRecipes(t) {
		t.Run(name, func(t *testing.T) {
			d := loadText(t, string(text))
			if name != "template" && d.Recipe.Metadata.Name+".yaml" != name {
				t.Errorf("the recipe's name is %s", d.Recipe.Metadata.Name)
			}
			if !bytes.HasPrefix(text, []byte("# yaml-language-server: $schema=./schema.json\n")) {
				t.Error("the first line does not name the schema")
			}
		})
	}
}

// TestTemplateChoices checks that every line that the template comments out is valid in its place.
func TestTemplateChoices(t *testing.T) {
	choice := regexp.MustCompile(`^( +)# ( *(- |[a-zA-Z0-9.]+:).*)`)
	var lines []string
	for line := range strings.Lines(string(Template())) {
		lines = append(lines, choice.ReplaceAllString(line, "$1$2"))
	}
	text := strings.Join(lines, "")
	dir := t.TempDir()
	t.Chdir(dir)
	_, err := Load("-", strings.NewReader(text))
	if err == nil {
		t.Fatal("the template's files exist")
	}
	for line := range strings.Lines(err.Error()) {
		// The files that the choices name are examples; nothing else may be wrong.
		if !strings.Contains(line, "which does not exist relative to the recipe") {
			t.Errorf("%s", line)
		}
	}
	for _, want := range []string{"app.tar", `"oci"`, `"motd"`, "company-ca.pem"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("the template does not show %s:\n%v\n%s", want, err, text)
		}
	}
}

func compileSchema(t *testing.T) *jsonschema.Schema {
	t.Helper()
	document, err := jsonschema.UnmarshalJSON(bytes.NewReader(Schema()))
	if err != nil {
		t.Fatal(err)
	}
	compiler := jsonschema.NewCompiler()
	if err := compiler.AddResource("schema.json", document); err != nil {
		t.Fatal(err)
	}
	compiled, err := compiler.Compile("schema.json")
	if err != nil {
		t.Fatal(err)
	}
	return compiled
}

func validateAgainst(t *testing.T, schema *jsonschema.Schema, text []byte) error {
	t.Helper()
	asJSON, err := yaml.YAMLToJSON(text)
	if err != nil {
		t.Fatal(err)
	}
	value, err := jsonschema.UnmarshalJSON(bytes.NewReader(asJSON))
	if err != nil {
		t.Fatal(err)
	}
	return schema.Validate(value)
}

func TestSchemaAccepts(t *testing.T) {
	compiled := compileSchema(t)
	texts := exampleRecipes(t)
	texts["named"] = []byte(minimal + "  preload: {images: [{archive: a.tar, name: a:1}, {layout: oci, name: b:1}, {docker: c:1}, d:1]}\n")
	texts["minimal"], texts["full"] = []byte(minimal), []byte(fullRecipe)
	for name, text := range texts {
		if err := validateAgainst(t, compiled, text); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestSchemaRefuses(t *testing.T) {
	compiled := compileSchema(t)
	for name, text := range map[string]string{
		"unknown field":       minimal + "  cloud: aws\n",
		"missing version":     strings.Replace(minimal, "{version: v1.34.10}", "{}", 1),
		"short version":       strings.Replace(minimal, "v1.34.10", "v1.34", 1),
		"other kind":          strings.Replace(minimal, "NodeImage", "Pod", 1),
		"other api version":   strings.Replace(minimal, "v1alpha1", "v1", 1),
		"number for a string": minimal + "  base: {release: 12}\n",
		"unknown distro":      minimal + "  base: {distro: fedora}\n",
		"two image sources":   minimal + "  preload: {images: [{registry: a:1, docker: b:1}]}\n",
		"no image source":     minimal + "  preload: {images: [{}]}\n",
		"name of a reference": minimal + "  preload: {images: [{registry: a:1, name: b:1}]}\n",
		"only a name":         minimal + "  preload: {images: [{name: b:1}]}\n",
		"odd image source":    minimal + "  preload: {images: [{url: a}]}\n",
		"bad package":         minimal + "  packages: [JQ]\n",
		"package twice":       minimal + "  packages: [jq, jq]\n",
		"bad mode":            minimal + "  files: [{source: a, target: /a, mode: \"0999\"}]\n",
		"bad platform":        minimal + "  platforms: [windows/amd64]\n",
		"bad name":            strings.Replace(minimal, "name: minimal", "name: K8s", 1),
		"no value":            minimal + "  packages:\n",
	} {
		if validateAgainst(t, compiled, []byte(text)) == nil {
			t.Errorf("%s: the schema accepts\n%s", name, text)
		}
	}
}

func TestImageSourceJSON(t *testing.T) {
	for text, want := range map[string]ImageSource{
		`"a:1"`:              {Registry: "a:1"},
		`{"registry":"a"}`:   {Registry: "a"},
		`{"layout":"./oci"}`: {Layout: "./oci"},
	} {
		var got ImageSource
		if err := got.UnmarshalJSON([]byte(text)); err != nil || cmp.Diff(want, got) != "" {
			t.Errorf("%s: got %v, %v", text, got, err)
		}
	}
	for _, text := range []string{`{"url":"a"}`, `[]`, `1`} {
		if new(ImageSource).UnmarshalJSON([]byte(text)) == nil {
			t.Errorf("accepted %s", text)
		}
	}
	if got := (ImageSource{Archive: "app.tar"}).String(); got != "archive app.tar" {
		t.Errorf("got %q", got)
	}
}
