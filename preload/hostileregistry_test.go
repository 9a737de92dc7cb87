package preload

import (
	"bytes"
	"encoding/json"
	"errors"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/nodeimg/nodeimg/recipes"
)

// endless sends bytes for as long as somebody reads them, or as many as no manifest has a hundred times over.
func endless(w http.ResponseWriter) {
	chunk := bytes.Repeat([]byte(" "), 1<<16)
	for range 100 * maxManifest / len(chunk) {
		if _, err := w.Write(chunk); err != nil {
			return
		}
	}
}

// TestHostileRegistry has a registry that answers otherwise than registries do.
func TestHostileRegistry(t *testing.T) {
	on := func(part string, answer func(w http.ResponseWriter)) func(http.ResponseWriter, *http.Request, http.Handler) bool {
		return func(w http.ResponseWriter, r *http.Request, _ http.Handler) bool {
			if !strings.Contains(r.URL.Path, part) {
				return false
			}
			answer(w)
			return true
		}
	}
	manifest := func(change func(*ocispec.Manifest)) func(http.ResponseWriter) {
		return func(w http.ResponseWriter) {
			d := digest.FromString("x")
			m := ocispec.Manifest{MediaType: ocispec.MediaTypeImageManifest, Config: ocispec.Descriptor{MediaType: ocispec.MediaTypeImageConfig, Digest: d, Size: 1}}
			change(&m)
			b, err := json.Marshal(m)
			if err != nil {
				t.Error(err)
			}
			w.Header().Set("Content-Type", ocispec.MediaTypeImageManifest)
			_, _ = w.Write(b)
		}
	}
	for name, test := range map[string]struct {
		spoil func(http.ResponseWriter, *http.Request, http.Handler) bool
		input bool
		says  string
	}{
		"endless manifest": {on("/manifests/", endless), false, "longer than"},
		"endless greeting": {func(w http.ResponseWriter, r *http.Request, _ http.Handler) bool {
			if r.URL.Path != "/v2/" {
				return false
			}
			endless(w)
			return true
		}, false, ""},
		"endless error":  {on("/manifests/", func(w http.ResponseWriter) { w.WriteHeader(http.StatusTeapot); endless(w) }), false, "limit"},
		"endless config": {on("/blobs/", endless), false, "sha256:"},
		"manifest cut short": {on("/manifests/", func(w http.ResponseWriter) {
			w.Header().Set("Content-Length", "1000")
			_, _ = w.Write([]byte("{}"))
		}), false, "EOF"},
		"config cut short": {on("/blobs/", func(w http.ResponseWriter) {
			w.Header().Set("Content-Length", "100000")
			_, _ = w.Write([]byte("{}"))
		}), false, "sha256:"},
		"bomb of layers": {on("/manifests/", manifest(func(m *ocispec.Manifest) {
			m.Layers = slices.Repeat([]ocispec.Descriptor{{MediaType: ocispec.MediaTypeImageLayer, Digest: digest.FromString("l"), Size: 1}}, 5000)
		})), true, "5000 layers"},
		"config of a terabyte": {on("/manifests/", manifest(func(m *ocispec.Manifest) { m.Config.Size = 1 << 40 })), true, "larger than"},
		"config without size":  {on("/manifests/", manifest(func(m *ocispec.Manifest) { m.Config.Size = 0 })), true, "size 0"},
		"page of a proxy": {on("/manifests/", func(w http.ResponseWriter) {
			w.Header().Set("Content-Type", "text/html")
			_, _ = w.Write([]byte("<html>please log in</html>"))
		}), true, "text/html"},
		"redirect to an address with a signature": {on("/manifests/", func(w http.ResponseWriter) {
			w.Header().Set("Location", "http://user:hunter2@127.0.0.1:1/blob?signature=hunter2")
			w.WriteHeader(http.StatusTemporaryRedirect)
		}), false, "127.0.0.1:1"},
		"redirect in a circle": {func(w http.ResponseWriter, r *http.Request, _ http.Handler) bool {
			if !strings.Contains(r.URL.Path, "/manifests/") {
				return false
			}
			http.Redirect(w, r, r.URL.Path, http.StatusTemporaryRedirect)
			return true
		}, false, "redirects"},
	} {
		t.Run(name, func(t *testing.T) {
			p, s := startRegistry(t), newSources(t)
			src := recipes.ImageSource{Registry: p.push(t, "a/b:1", newOCIImage(t, "amd64", 1, 1000))}
			p.set(test.spoil)
			before := leftovers(t, s)
			_, err := s.Resolve(t.Context(), src, platform, recipes.RoleUser)
			if name == "endless greeting" && err == nil {
				// Nobody reads it, so it does no harm.
				return
			}
			if err == nil || !strings.Contains(err.Error(), test.says) || !strings.Contains(err.Error(), src.Registry) || strings.Contains(err.Error(), "hunter2") || len(err.Error()) > 5000 {
				t.Fatalf("the error is %v, want %q and the reference in it", err, test.says)
			}
			if errors.As(err, new(*recipes.InputError)) != test.input {
				t.Errorf("error %v counts as bad input: %v", err, !test.input)
			}
			after := slices.DeleteFunc(leftovers(t, s), func(name string) bool {
				// What arrived of a blob is kept for the next try, which verifies it.
				return name == "partial/"+digestOfConfig(t, p)
			})
			if !slices.Equal(before, after) {
				t.Errorf("left in the cache: %v", after)
			}
			p.set(nil)
			mustFetch(t, s, mustResolve(t, s, src))
		})
	}
}

// digestOfConfig is the config that the registry was last asked for.
func digestOfConfig(t *testing.T, p *proxy) string {
	t.Helper()
	for path := range p.counts("/blobs/sha256:") {
		return path[strings.LastIndex(path, ":")+1:]
	}
	return ""
}

// TestLyingSizeOfALayer has a registry that serves more and fewer bytes of a layer than its manifest says, and a manifest that is wrong
// about a layer that the cache has.
func TestLyingSizeOfALayer(t *testing.T) {
	for name, test := range map[string]struct {
		change int64
		says   string
	}{"fewer": {-1, "sends more than"}, "more": {1, "sha256:"}} {
		t.Run(name, func(t *testing.T) {
			p, s := startRegistry(t), newSources(t)
			image := newOCIImage(t, "amd64", 1, 1000)
			src := recipes.ImageSource{Registry: p.push(t, "a/b:1", image)}
			var m ocispec.Manifest
			if err := json.Unmarshal(rawManifest(t, image), &m); err != nil {
				t.Fatal(err)
			}
			m.Layers[0].Size += test.change
			lie := mustJSON(t, m)
			p.set(func(w http.ResponseWriter, r *http.Request, _ http.Handler) bool {
				if !strings.Contains(r.URL.Path, "/manifests/") {
					return false
				}
				w.Header().Set("Content-Type", ocispec.MediaTypeImageManifest)
				_, _ = w.Write(lie)
				return true
			})
			locked := mustResolve(t, s, src)
			err := s.Fetch(t.Context(), locked[0])
			if err == nil || !strings.Contains(err.Error(), test.says) || !strings.Contains(err.Error(), locked[0].Reference) {
				t.Errorf("the error is %v", err)
			}
			if s.Cache.Has(m.Layers[0].Digest) {
				t.Error("the layer is in the cache")
			}
			p.set(nil)
			mustFetch(t, s, mustResolve(t, s, src))
			if err := s.Fetch(t.Context(), locked[0]); !errors.As(err, new(*recipes.InputError)) || !strings.Contains(err.Error(), "descriptor says") {
				t.Errorf("with the layer in the cache, the error is %v", err)
			}
		})
	}
}
