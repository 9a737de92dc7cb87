package packages_test

import (
	"os"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/nodeimg/nodeimg/internal/cache"
	"github.com/nodeimg/nodeimg/sources/packages"
)

func linkBlob(t *testing.T, from, to *cache.Cache, d string) {
	t.Helper()
	source, target := from.Path(digest.Digest(d)), to.Path(digest.Digest(d))
	if err := os.Link(source, target); err == nil {
		return
	}
	f, err := from.Open(digest.Digest(d))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, _, err := to.Put(f, digest.Digest(d)); err != nil {
		t.Fatal(err)
	}
}

func TestBootstrapIsReproducible(t *testing.T) {
	u, err := packages.Distribution("debian", "bookworm", "linux/amd64", nil)
	if err != nil {
		t.Fatal(err)
	}
	locked, err := u.Resolve(t.Context(), sharedCache(t), nodePackages)
	if err != nil {
		t.Fatal(err)
	}
	t.Log(len(locked), "packages")
	var digests [2]digest.Digest
	for i := range digests {
		c := privateCache(t, locked)
		if digests[i], err = packages.Bootstrap(t.Context(), c, u, "bookworm", locked, epoch); err != nil {
			t.Fatal(err)
		}
		t.Log(digests[i])
	}
	if digests[0] != digests[1] {
		t.Errorf("%s and %s", digests[0], digests[1])
	}
}
