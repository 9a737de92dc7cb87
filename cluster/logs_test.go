package cluster

import (
	"archive/tar"
	"bytes"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func TestWithoutValues(t *testing.T) {
	got, err := withoutValues([]byte(`
items:
- kind: Pod
  metadata:
    annotations: {kubectl.kubernetes.io/last-applied-configuration: '{"env": "s3cret"}', kept: "yes"}
  spec:
    containers:
    - image: app:v1
      env:
      - {name: PASSWORD, value: s3cret}
      - {name: ADDRESS, valueFrom: {fieldRef: {fieldPath: status.podIP}}}
`))
	if err != nil {
		t.Fatal(err)
	}
	text := string(got)
	if strings.Contains(text, "s3cret") {
		t.Errorf("a secret is left in\n%s", text)
	}
	for _, want := range []string{"image: app:v1", "name: PASSWORD", leftOut, "fieldPath: status.podIP", "kept: "} {
		if !strings.Contains(text, want) {
			t.Errorf("no %q in\n%s", want, text)
		}
	}
	for name, text := range map[string]string{"no YAML": "env: [{name: A, value: s3cret}", "no object": "A=s3cret", "a list": "- s3cret"} {
		if got, err := withoutValues([]byte(text)); err == nil || strings.Contains(err.Error(), "s3cret") {
			t.Errorf("%s: got %q, %v", name, got, err)
		}
	}
	// For a kubelet, whatever is a key in YAML is a string.
	if got, err := withoutValues([]byte("1: {env: [{name: A, value: s3cret}]}")); err != nil || strings.Contains(string(got), "s3cret") {
		t.Errorf("below a number: got %q, %v", got, err)
	}
}

// TestExtractManifests holds that of static pods, to which kubeadm gives the proxies of the node, no value of a variable is exported.
func TestExtractManifests(t *testing.T) {
	dir := t.TempDir()
	var content bytes.Buffer
	out := tar.NewWriter(&content)
	for name, text := range map[string]string{
		"kube-apiserver.yaml": "kind: Pod\nspec: {containers: [{name: kube-apiserver, env: [{name: HTTPS_PROXY, value: 's3cret'}]}]}\n",
		"broken.yaml":         "env: [{name: A, value: s3cret}",
		"kept/.swp":           "\x00s3cret",
	} {
		if err := out.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: "manifests/" + name, Size: int64(len(text))}); err != nil {
			t.Fatal(err)
		}
		if _, err := out.Write([]byte(text)); err != nil {
			t.Fatal(err)
		}
	}
	if err := out.Close(); err != nil {
		t.Fatal(err)
	}
	manifests := nodeFolders[slices.IndexFunc(nodeFolders, func(f nodeFolder) bool { return f.name == "manifests" })]
	if diskErr, readErr := extract(dir, &content, manifests.clean); diskErr != nil || readErr != nil {
		t.Fatal(diskErr, readErr)
	}
	found := map[string]string{}
	if err := filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err == nil && !entry.IsDir() {
			text, readErr := os.ReadFile(path)
			found[strings.TrimPrefix(path, dir+"/manifests/")], err = string(text), readErr
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
	for name, text := range found {
		if strings.Contains(text, "s3cret") {
			t.Errorf("%s holds a value:\n%s", name, text)
		}
	}
	for name, want := range map[string]string{"kube-apiserver.yaml": leftOut, "broken.yaml.failed.txt": "left out", "kept/.swp.failed.txt": "left out"} {
		if !strings.Contains(found[name], want) || len(found) != 3 {
			t.Errorf("no %q in %s of %q", want, name, found)
		}
	}
}

// TestExtract gives tars that a node could send, and looks that nothing comes to lie outside the folder.
func TestExtract(t *testing.T) {
	for _, test := range []struct {
		name    string
		headers []tar.Header
		fails   bool
	}{
		{name: "files", headers: []tar.Header{{Typeflag: tar.TypeDir, Name: "pods/"}, {Typeflag: tar.TypeReg, Name: "pods/a/0.log"}}},
		{name: "parent", headers: []tar.Header{{Typeflag: tar.TypeReg, Name: "../outside"}}, fails: true},
		{name: "absolute", headers: []tar.Header{{Typeflag: tar.TypeReg, Name: "/outside"}}, fails: true},
		{name: "a file as a folder", headers: []tar.Header{{Typeflag: tar.TypeReg, Name: "pods"}, {Typeflag: tar.TypeReg, Name: "pods/a/0.log"}}, fails: true},
		{name: "through a link", headers: []tar.Header{{Typeflag: tar.TypeSymlink, Name: "pods", Linkname: ".."}, {Typeflag: tar.TypeReg, Name: "pods/a/0.log"}}},
	} {
		t.Run(test.name, func(t *testing.T) {
			top := t.TempDir()
			dir := filepath.Join(top, "node")
			if err := os.Mkdir(dir, 0o755); err != nil {
				t.Fatal(err)
			}
			var content bytes.Buffer
			out := tar.NewWriter(&content)
			for _, h := range test.headers {
				if h.Typeflag == tar.TypeReg {
					h.Size = 4
				}
				if err := out.WriteHeader(&h); err != nil {
					t.Fatal(err)
				}
				if h.Typeflag == tar.TypeReg {
					if _, err := out.Write([]byte("line")); err != nil {
						t.Fatal(err)
					}
				}
			}
			if err := out.Close(); err != nil {
				t.Fatal(err)
			}
			diskErr, readErr := extract(dir, &content, nil)
			if diskErr != nil || (readErr != nil) != test.fails {
				t.Fatalf("%v, %v", diskErr, readErr)
			}
			if text, err := os.ReadFile(filepath.Join(dir, "pods/a/0.log")); !test.fails && (err != nil || string(text) != "line") {
				t.Errorf("%q, %v", text, err)
			}
			if entries, err := os.ReadDir(top); err != nil || len(entries) != 1 {
				t.Errorf("beside the folder: %v, %v", entries, err)
			}
		})
	}
}
