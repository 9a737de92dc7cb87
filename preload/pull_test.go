package preload

import (
	"context"
	"fmt"
	"io/fs"
	"maps"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/v1"
	"github.com/opencontainers/go-digest"

	"github.com/nodeimg/nodeimg/recipes"
)

// pull runs the build step's script in namespaces of its own, as BuildKit would, and returns its output.
func pull(t *testing.T, b *Broker, out string, args ...string) (string, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	script, err := filepath.Abs("../dockerfiles/node/build/pull.sh")
	if err != nil {
		t.Fatal(err)
	}
	step := append([]string{"--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "testdata/step.sh", "sh", script}, args...)
	command := exec.CommandContext(ctx, "unshare", step...)
	command.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	command.Env = []string{
		"PATH=" + mustPrograms(t) + ":" + os.Getenv("PATH"), "NODEIMG_BROKER=" + b.Socket(), "NODEIMG_OUT=" + out, "SOURCE_DATE_EPOCH=1700000000",
	}
	text, err := command.CombinedOutput()
	return string(text), err
}

func TestPullScript(t *testing.T) {
	p, s := startRegistry(t), newSources(t)
	s.Mirrors = map[string]string{"registry.k8s.io": "http://" + p.host, "docker.io": "http://" + p.host}
	image := newOCIImage(t, "amd64", 3, 100_000)
	p.push(t, "coredns/coredns:v1.12.1", newIndex(t, map[string]v1.Image{"arm64": newOCIImage(t, "arm64", 1, 10), "amd64": image}))
	p.push(t, "library/app:1", newImage(t, "amd64", 2, 1000))
	digested := "other@" + digest.FromBytes(rawManifest(t, newPushed(t, p, "library/other:1"))).String()
	for _, raw := range []string{"registry.k8s.io/coredns/coredns:v1.12.1", "app:1", digested} {
		t.Run(raw, func(t *testing.T) {
			locked := mustResolve(t, s, recipes.ImageSource{Registry: raw})[0]
			b := serve(t, s, []recipes.LockedImage{locked})
			out := t.TempDir()
			// Twice: a group of images shares /out.
			for range 2 {
				if text, err := pull(t, b, out, locked.Reference, platform, locked.Digest); err != nil {
					t.Fatalf("%v: %s; %v", err, text, b.Err())
				}
			}
			parts, err := readParts(s.Cache, locked)
			if err != nil {
				t.Fatal(err)
			}
			want := map[string]bool{".": true, "blobs": true, "blobs/sha256": true}
			for _, d := range parts.all() {
				want["blobs/sha256/"+d.Digest.Encoded()] = true
				got, err := os.ReadFile(filepath.Join(out, "blobs", "sha256", d.Digest.Encoded()))
				if err != nil || digest.FromBytes(got) != d.Digest {
					t.Errorf("blob %s: %v", d.Digest, err)
				}
			}
			got := map[string]bool{}
			err = fs.WalkDir(os.DirFS(out), ".", func(path string, entry fs.DirEntry, err error) error {
				if err != nil {
					return err
				}
				got[path] = true
				info, err := entry.Info()
				if err != nil {
					return err
				}
				if !info.ModTime().Equal(epoch) || !entry.IsDir() && info.Mode() != 0o644 {
					t.Errorf("%s: %v, %v", path, info.ModTime(), info.Mode())
				}
				return nil
			})
			if err != nil {
				t.Fatal(err)
			}
			if !maps.Equal(got, want) {
				t.Errorf("/out holds %v, want %v", slices.Sorted(maps.Keys(got)), slices.Sorted(maps.Keys(want)))
			}
		})
	}
}

// newPushed pushes a new image and returns it.
func newPushed(t *testing.T, p *proxy, path string) v1.Image {
	t.Helper()
	image := newImage(t, "amd64", 1, 500)
	p.push(t, path, image)
	return image
}

func TestPullScriptFailsLoudly(t *testing.T) {
	p, s := startRegistry(t), newSources(t)
	locked := mustResolve(t, s, recipes.ImageSource{Registry: p.push(t, "a/b:1", newImage(t, "amd64", 1, 1000))})[0]
	none := "sha256:" + strings.Repeat("0", 64)
	for _, test := range []struct {
		name string
		args []string
		says string
	}{
		{"not in the lock", []string{"docker.io/library/else:1", platform, none}, "docker.io/library/else"},
		{"wrong digest", []string{locked.Reference, platform, none}, none},
		{"source fails", []string{locked.Reference, platform, locked.Digest}, "containerd.log"},
	} {
		t.Run(test.name, func(t *testing.T) {
			b, out := serve(t, s, []recipes.LockedImage{locked}), t.TempDir()
			p.set(func(w http.ResponseWriter, r *http.Request, _ http.Handler) bool {
				w.WriteHeader(http.StatusForbidden)
				return true
			})
			text, err := pull(t, b, out, test.args...)
			if err == nil || !strings.Contains(text, test.says) || !strings.Contains(text, "failed with status") {
				t.Errorf("it ended with %v: %s", err, text)
			}
			if entries, err := filepath.Glob(filepath.Join(out, ".pull*")); err != nil || entries != nil {
				t.Errorf("left over: %v, %v", entries, err)
			}
			if test.name == "source fails" && (b.Err() == nil || !strings.Contains(b.Err().Error(), fmt.Sprint(http.StatusForbidden))) {
				t.Errorf("the broker's error is %v", b.Err())
			}
		})
	}
}
