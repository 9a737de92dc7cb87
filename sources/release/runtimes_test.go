package release

import (
	"archive/tar"
	"errors"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/nodeimg/nodeimg/internal/cache"
	"github.com/nodeimg/nodeimg/recipes"
)

func TestCRIO(t *testing.T) {
	for _, test := range []struct{ version, arch, conmon string }{
		{"1.36.3", "amd64", "conmon"}, {"1.31.0", "arm64", "conmon"}, {"1.30.14", "amd64", "crio-conmon"},
	} {
		t.Run(test.version, func(t *testing.T) {
			s := startServer(t)
			path := "/storage/cri-o/artifacts/cri-o." + test.arch + ".v" + test.version + ".tar.gz"
			s.publish(path, ".sha256sum", archive(t,
				entry{header: tar.Header{Typeflag: tar.TypeDir, Name: "cri-o/bin/", Mode: 0o755}},
				file("cri-o/bin/crio", namedProgram(t, "crio")), file("cri-o/bin/pinns", namedProgram(t, "pinns")), file("cri-o/bin/crun", []byte("not wanted")),
				file("cri-o/bin/"+test.conmon, namedProgram(t, "conmon")), file("cri-o/etc/crio", []byte("not a program")),
			))
			c := s.client(t)
			list := runtimeDownloads(recipes.CRI{Name: recipes.CRICRIO, Version: test.version}, test.arch)
			if len(list) != 2 || list[1].project != "runc" {
				t.Fatalf("downloads are %+v", list)
			}
			parts, err := resolveDownload(t.Context(), c, list[0])
			if err != nil {
				t.Fatal(err)
			}
			if got := paths(parts); !slices.Equal(got, []string{"/usr/local/bin/crio", "/usr/local/bin/pinns", "/usr/local/bin/conmon"}) {
				t.Errorf("programs lie at %v", got)
			}
			assertPublished(t, c.Cache, parts, "cri-o", "v"+test.version)
		})
	}
}

// TestDocker downloads archives in the layout of the real ones, whose checksums are known beforehand.
func TestDocker(t *testing.T) {
	for _, test := range []struct{ arch, dockerArch string }{{"amd64", "x86_64"}, {"arm64", "aarch64"}} {
		t.Run(test.arch, func(t *testing.T) {
			s := startServer(t)
			list := runtimeDownloads(recipes.CRI{Name: recipes.CRIDocker, Version: knownDocker}, test.arch)
			if len(list) != 4 || list[2].project != "containerd" || list[3].project != "runc" {
				t.Fatalf("downloads are %+v", list)
			}
			for i, published := range []struct {
				path, project, version string
				content                []byte
				programs               []string
			}{
				{
					"/docker/linux/static/stable/" + test.dockerArch + "/docker-28.0.4.tgz", "docker", "v28.0.4",
					archive(t, file("docker/docker", namedProgram(t, "docker")), file("docker/containerd", []byte("an older one")),
						file("docker/dockerd", namedProgram(t, "dockerd")), file("docker/docker-proxy", namedProgram(t, "docker-proxy"))),
					[]string{"/usr/local/bin/docker", "/usr/local/bin/dockerd", "/usr/local/bin/docker-proxy"},
				},
				{
					"/github/Mirantis/cri-dockerd/releases/download/v0.3.24/cri-dockerd-0.3.24." + test.arch + ".tgz", "cri-dockerd", "v0.3.24",
					archive(t, file("cri-dockerd/cri-dockerd", namedProgram(t, "cri-dockerd"))),
					[]string{"/usr/local/bin/cri-dockerd"},
				},
			} {
				s.files[published.path] = published.content
				d := list[i]
				// These are not the project's bytes, and that is noticed.
				_, err := resolveDownload(t.Context(), s.client(t), d)
				var mismatch *cache.DigestError
				if !errors.As(err, &mismatch) {
					t.Errorf("%s: want a digest error, got %v", published.project, err)
				}
				d.known = digest.FromBytes(published.content)
				c := s.client(t)
				parts, err := resolveDownload(t.Context(), c, d)
				if err != nil {
					t.Fatal(err)
				}
				if got := paths(parts); !slices.Equal(got, published.programs) {
					t.Errorf("programs lie at %v", got)
				}
				assertPublished(t, c.Cache, parts, published.project, published.version)
			}
		})
	}
}

// TestUnknownSums checks that nothing is downloaded for which nobody vouches.
func TestUnknownSums(t *testing.T) {
	for _, test := range []struct {
		cri      recipes.CRI
		platform string
		says     string
	}{
		{recipes.CRI{Name: recipes.CRIDocker, Version: recipes.DefaultDockerVersion}, "linux/amd64", "docker publishes no checksums, and nodeimg knows none for its version v28.5.2"},
		{recipes.CRI{Name: recipes.CRIDocker, Version: knownDocker}, "linux/riscv64", "linux/static/stable/riscv64/docker-28.0.4.tgz"},
	} {
		t.Run(test.cri.Version+" "+test.platform, func(t *testing.T) {
			s := startServer(t)
			_, _, err := Resolve(t.Context(), s.client(t), Request{Kubernetes: "v1.34.10", CRI: test.cri, Platform: test.platform})
			var input *recipes.InputError
			if !errors.As(err, &input) || !strings.Contains(err.Error(), test.says) || !strings.Contains(err.Error(), "kubernetes.source modules") {
				t.Errorf("got %v", err)
			}
			if n := s.requests.Load(); n != 0 {
				t.Errorf("%d requests before the error", n)
			}
		})
	}
	for url, sum := range knownSums {
		if err := sum.Validate(); err != nil {
			t.Errorf("%s: %v", url, err)
		}
	}
}

func paths(parts []recipes.LockedPart) []string {
	var list []string
	for _, p := range parts {
		list = append(list, p.Path)
	}
	return list
}

// assertPublished checks that the parts are the programs that namedProgram made, and are in the cache.
func assertPublished(t *testing.T, c *cache.Cache, parts []recipes.LockedPart, project, version string) {
	t.Helper()
	for _, p := range parts {
		want := namedProgram(t, filepath.Base(p.Path))
		if p.Digest != digest.FromBytes(want).String() || p.Size != int64(len(want)) || p.Name != project || p.Version != version || !strings.HasPrefix(p.Origin, "https://") {
			t.Errorf("part %+v is not what was published", p)
		}
		if !c.Has(digest.Digest(p.Digest)) {
			t.Errorf("%s is not in the cache", p.Path)
		}
	}
}
