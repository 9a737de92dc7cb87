package cluster

import (
	"archive/tar"
	"bytes"
	"os"
	"path/filepath"
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
	if _, err := withoutValues([]byte("a: [")); err == nil {
		t.Error("what is no YAML was taken")
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
			diskErr, readErr := extract(dir, &content)
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
