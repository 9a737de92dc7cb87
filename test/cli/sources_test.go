package cli

import (
	"io"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/opencontainers/go-digest"

	"github.com/nodeimg/nodeimg/preload"
	"github.com/nodeimg/nodeimg/recipes"
)

// TestImageSources builds with images from everywhere, among them a registry that wants a password, and looks for the password and for
// the content of a copied file in everything that the builds leave.
func TestImageSources(t *testing.T) {
	const password, motd = "correct-horse-battery-staple", "nobody-should-print-this-file"
	w := newWorkplace(t)
	open, private := startRegistry(t, "", ""), startRegistry(t, "robot", password)
	w.dockerConfig(private)
	images := map[string]v1.Image{}
	for i, reference := range []string{
		"docker.io/library/tagged:1", "docker.io/library/pinned:1", private.host + "/team/secret:1", "docker.io/library/archived:1", "docker.io/library/laid:1",
	} {
		images[reference] = newImage(t, 100+int64(i))
	}
	open.push(t, "library/tagged:1", images["docker.io/library/tagged:1"])
	open.push(t, "library/pinned:1", images["docker.io/library/pinned:1"])
	private.push(t, "team/secret:1", images[private.host+"/team/secret:1"])
	tag, err := name.NewTag("archived:1")
	if err != nil {
		t.Fatal(err)
	}
	if err := tarball.WriteToFile(w.path("archived.tar"), tag, images["docker.io/library/archived:1"]); err != nil {
		t.Fatal(err)
	}
	folder, err := layout.Write(w.path("layout"), empty.Index)
	if err != nil {
		t.Fatal(err)
	}
	if err := folder.AppendImage(images["docker.io/library/laid:1"], layout.WithAnnotations(map[string]string{"org.opencontainers.image.ref.name": "docker.io/library/laid:1"})); err != nil {
		t.Fatal(err)
	}
	w.write("motd", motd)
	w.recipe(func(spec *recipes.Spec) {
		spec.Mirrors["docker.io"] = "http://" + open.host
		spec.Files = []recipes.File{{Source: "motd", Target: "/etc/motd"}}
		spec.Preload.Images = []recipes.ImageSource{
			{Registry: "tagged:1"},
			{Registry: "pinned:1@" + mustDigest(t, images["docker.io/library/pinned:1"]).String()},
			{Registry: private.host + "/team/secret:1"},
			{Archive: "archived.tar"},
			{Layout: "layout"},
		}
	})
	first := w.run("build", "recipe.yaml", "--progress", "rawjson", "--metadata-file", "metadata.json", "--timings").succeeded()
	image, lock := w.layoutImage("out/small"), w.lock()
	if err := preload.VerifyImage(t.Context(), nil, image, lock.Images); err != nil {
		t.Error(err)
	}
	blobs := storeBlobs(t, image)
	for reference, want := range images {
		i := slices.IndexFunc(lock.Images, func(image recipes.LockedImage) bool {
			return image.Reference == reference || strings.HasPrefix(image.Reference, reference+"@")
		})
		if i < 0 {
			t.Errorf("the lock has no %s: %+v", reference, lock.Images)
			continue
		}
		if lock.Images[i].Source.Archive != "" {
			// A docker-archive holds no manifest, so nodeimg writes one.
			checkContent(t, reference, want, digest.Digest(lock.Images[i].Manifest), blobs)
		} else {
			checkBlobs(t, reference, want, blobs)
		}
	}

	second := w.build("--no-cache", "-o", "type=oci,dest=again")
	if first.digest() != second.digest() {
		t.Errorf("building everything again gave %s, before it was %s", second.digest(), first.digest())
	}
	metadata, err := os.ReadFile(w.path("metadata.json"))
	if err != nil {
		t.Fatal(err)
	}
	manifest, err := image.RawManifest()
	if err != nil {
		t.Fatal(err)
	}
	config, err := image.RawConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	for place, text := range map[string]string{
		"rawjson progress": first.stderr, "plain progress": second.stderr, "standard output": first.stdout + second.stdout, "metadata file": string(metadata),
		"manifest": string(manifest), "config": string(config), "lock": w.run("lock", "recipe.yaml").stdout,
		"Dockerfile": w.run("dockerfile", "recipe.yaml").stdout, "inspect": w.run("inspect", "--json", "out/small").stdout,
	} {
		if text == "" {
			t.Errorf("there is no %s", place)
		}
		for _, secret := range []string{password, private.auth(), motd} {
			if strings.Contains(text, secret) {
				t.Errorf("the %s holds %q", place, secret)
			}
		}
	}
	copied := false
	visitFiles(t, image, func(name string, content io.Reader) {
		b, err := io.ReadAll(content)
		if err != nil {
			t.Fatal(err)
		}
		for _, secret := range []string{password, private.auth()} {
			if strings.Contains(string(b), secret) {
				t.Errorf("%s in the image holds %q", name, secret)
			}
		}
		if strings.Contains(string(b), motd) {
			copied = true
			if name != "/etc/motd" {
				t.Errorf("the content of /etc/motd is also in %s", name)
			}
		}
	})
	if !copied {
		t.Error("no layer holds the copied file, so this test would not see a secret either")
	}
}
