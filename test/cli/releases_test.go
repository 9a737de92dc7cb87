package cli

import (
	"bytes"
	"compress/gzip"
	"context"
	"fmt"
	"io"
	"log"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/opencontainers/go-digest"

	"github.com/nodeimg/nodeimg/recipes"
	"github.com/nodeimg/nodeimg/test/internal/archive"
	"github.com/nodeimg/nodeimg/test/internal/tools"
)

// releasedImages are those that the released kubeadm names.
var releasedImages = []string{
	"registry.k8s.io/coredns/coredns:v1.12.1", "registry.k8s.io/etcd:3.6.5-0", "registry.k8s.io/kube-apiserver:v1.34.10", pause,
}

// releasePages stand for the release pages and the registry of Kubernetes and of what it needs, for all tests, so that a node takes
// seconds to build: containerd and ctr are real, because they pull in build steps; the other programs are scripts, because no node is
// started here. The registry has pause alone, the same in every run of the tests: the small node is to need no other. What it returns are
// a recipe's mirrors.
var releasePages = sync.OnceValues(func() (map[string]string, error) {
	files, err := releasedFiles(context.Background())
	if err != nil {
		return nil, fmt.Errorf("making programs to release: %w", err)
	}
	images := registry.New(registry.Logger(log.New(io.Discard, "", 0)))
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasPrefix(r.URL.Path, "/v2/") {
			images.ServeHTTP(w, r)
			return
		}
		content, ok := released(files, path.Base(r.URL.Path))
		if !ok {
			http.NotFound(w, r)
			return
		}
		_, _ = w.Write(content)
	}))
	mirrors := map[string]string{}
	for _, host := range []string{"dl.k8s.io", "github.com", "registry.k8s.io"} {
		mirrors[host] = server.URL + "/" + host
	}
	image, err := randomImage(1)
	if err != nil {
		return nil, err
	}
	tag, err := name.NewTag(strings.TrimPrefix(server.URL, "http://")+"/"+pause, name.Insecure)
	if err != nil {
		return nil, err
	}
	return mirrors, remote.Write(tag, image)
})

// released returns the file that a release page has under the name, whichever version it is of, or the sha256 of one alone, as
// dl.k8s.io has it.
func released(files map[string][]byte, base string) ([]byte, bool) {
	for project, content := range files {
		if strings.HasPrefix(base, project) {
			if strings.Contains(base, ".sha256") {
				return []byte(digest.FromBytes(content).Encoded()), true
			}
			return content, true
		}
	}
	return nil, false
}

// releasedFiles are programs and archives of programs, by what their names begin with. The forms are those that sources/release reads.
func releasedFiles(ctx context.Context) (map[string][]byte, error) {
	script := func(name string) []byte { return fmt.Appendf(nil, "#!/bin/sh\necho %s\n", name) }
	files := map[string][]byte{
		"kubeadm": fmt.Appendf(nil, "#!/bin/sh\ncat <<'IMAGES'\n%s\nIMAGES\n", strings.Join(releasedImages, "\n")),
	}
	for _, name := range []string{"kubectl", "kubelet", "runc"} {
		files[name] = script(name)
	}
	plugins := map[string][]byte{}
	for _, name := range strings.Fields("bandwidth bridge dhcp dummy firewall host-device host-local ipvlan loopback macvlan portmap ptp sbr static tap tuning vlan vrf") {
		plugins[name] = script(name)
	}
	runtime := map[string][]byte{"bin/containerd-shim-runc-v2": script("containerd-shim-runc-v2")}
	compiled, err := tools.Containerd(ctx)
	if err != nil {
		return nil, err
	}
	for _, name := range []string{"containerd", "ctr"} {
		if runtime["bin/"+name], err = os.ReadFile(filepath.Join(compiled, name)); err != nil {
			return nil, err
		}
	}
	for name, content := range map[string]map[string][]byte{"cni-plugins": plugins, "containerd": runtime, "crictl": {"crictl": script("crictl")}} {
		if files[name], err = archiveOf(content); err != nil {
			return nil, err
		}
	}
	return files, nil
}

// archiveOf is a gzipped tar of the programs, the same in every run, and made without delay.
func archiveOf(programs map[string][]byte) ([]byte, error) {
	var out bytes.Buffer
	stored, err := gzip.NewWriterLevel(&out, gzip.NoCompression)
	if err != nil {
		return nil, err
	}
	var entries []archive.File
	for _, name := range slices.Sorted(maps.Keys(programs)) {
		entries = append(entries, archive.Program(name, programs[name]))
	}
	if err := archive.Write(stored, entries...); err != nil {
		return nil, err
	}
	if err := stored.Close(); err != nil {
		return nil, err
	}
	return out.Bytes(), nil
}

// fromModules makes the recipe's node the one that people get: every program compiled from its modules, nothing of it made for tests.
func fromModules(spec *recipes.Spec) {
	spec.Kubernetes.Source = recipes.SourceModules
}
