package preload

import (
	"bytes"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/identity"

	"github.com/nodeimg/nodeimg/preload/trees"
	"github.com/nodeimg/nodeimg/recipes"
)

var epoch = time.Unix(1700000000, 0)

func TestDatabasesAreDeterministic(t *testing.T) {
	s := newSources(t)
	locked := fetched(t, s)
	unpacked := unpackedAs(t, s, locked)
	packed, err := Databases(t.Context(), s.Cache, recipes.CRIContainerd, locked, nil, epoch)
	if err != nil {
		t.Fatal(err)
	}
	state, err := Databases(t.Context(), s.Cache, recipes.CRIContainerd, locked, unpacked, epoch)
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Equal(packed.Snapshots, state.Snapshots) || bytes.Equal(packed.Meta, state.Meta) {
		t.Error("snapshots do not show in the databases")
	}
	t.Setenv("TMPDIR", t.TempDir())
	// Layers are not needed, and neither order nor zone of the inputs shows.
	few := newCache(t)
	for _, image := range locked {
		parts, err := readParts(s.Cache, image)
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range parts.all()[:len(parts.all())-len(parts.layers)] {
			b, err := readSmall(s.Cache, d.Digest)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := few.PutBytes(b); err != nil {
				t.Fatal(err)
			}
		}
	}
	slices.Reverse(locked)
	slices.Reverse(unpacked)
	for range 3 {
		again, err := Databases(t.Context(), few, recipes.CRIContainerd, locked, unpacked, epoch.In(time.FixedZone("far", 3600)))
		if err != nil {
			t.Fatal(err)
		}
		if !reflect.DeepEqual(state, again) {
			t.Error("two runs give different bytes")
		}
	}
	if len(state.Meta) > 1<<20 || len(state.Snapshots) > 1<<17 {
		t.Errorf("the databases have %d and %d bytes", len(state.Meta), len(state.Snapshots))
	}
	if left, err := os.ReadDir(os.TempDir()); err != nil || len(left) != 0 {
		t.Errorf("left in the temporary folder: %v, %v", left, err)
	}
}

func TestDatabasesRefuseBrokenSnapshots(t *testing.T) {
	one, two := digest.FromString("one"), digest.FromString("two")
	for name, list := range map[string][]trees.Snapshot{
		"without its parent":     {{ChainID: one, Parent: two}},
		"each other's parent":    {{ChainID: one, Parent: two}, {ChainID: two, Parent: one}},
		"twice with other sizes": {{ChainID: one, Size: 1}, {ChainID: one, Size: 2}},
	} {
		if _, err := Databases(t.Context(), newCache(t), recipes.CRIContainerd, nil, list, epoch); err == nil || !strings.Contains(err.Error(), one.String()) {
			t.Errorf("a snapshot %s: %v", name, err)
		}
	}
}

// unpackedAs are the snapshots of all images as if none of their layers deleted anything.
func unpackedAs(t *testing.T, s *Sources, locked []recipes.LockedImage) []trees.Snapshot {
	t.Helper()
	var list []trees.Snapshot
	for _, image := range locked {
		parts, err := ReadParts(s.Cache, image)
		if err != nil {
			t.Fatal(err)
		}
		var parent digest.Digest
		for i, chain := range identity.ChainIDs(parts.DiffIDs) {
			list = append(list, trees.Snapshot{ChainID: chain, Parent: parent, Size: int64(i) << 40, Inodes: int64(i)})
			parent = chain
		}
	}
	return list
}

func TestContainerdKnowsTheImages(t *testing.T) {
	s := newSources(t)
	locked := fetched(t, s)
	dir, root := nodeStore(t, s, locked), t.TempDir()
	boot(t, dir, root)
	n := startNode(t, root)

	list := n.ctr(t, "images", "ls")
	check := n.ctr(t, "images", "check")
	var names []string
	for _, image := range locked {
		parts, err := readParts(s.Cache, image)
		if err != nil {
			t.Fatal(err)
		}
		found, err := pluginNames(image, parts)
		if err != nil {
			t.Fatal(err)
		}
		names = append(names, found...)
		for _, name := range found {
			line := lineOf(list, name)
			for _, want := range []string{image.Digest, "io.cri-containerd.image=managed", "io.cri-containerd.pinned=pinned", image.Platform} {
				if want == image.Digest && strings.HasSuffix(name, "@"+image.Manifest) {
					want = image.Manifest
				}
				// An image id is one record for all images that share it.
				if !strings.Contains(line, want) && !(want == image.Digest && strings.HasPrefix(name, "sha256:")) {
					t.Errorf("%s: %q lacks %s", name, line, want)
				}
			}
			if line := lineOf(check, name); !strings.Contains(line, "complete (") || strings.Contains(line, "incomplete") {
				t.Errorf("%s is not complete: %q", name, line)
			}
		}
		content := n.ctr(t, "content", "ls")
		for _, d := range parts.all() {
			line := lineOf(content, d.Digest.String())
			if !strings.Contains(line, "containerd.io/distribution.source.") {
				t.Errorf("%s: %q has no source label", d.Digest, line)
			}
			if d.Digest == parts.manifest.Digest && (!strings.Contains(line, "containerd.io/gc.ref.content.config="+parts.config.Digest.String()) || !strings.Contains(line, "containerd.io/gc.ref.content.l.0="+parts.layers[0].Digest.String())) {
				t.Errorf("manifest %q lacks its children", line)
			}
			if d.Digest == parts.target.Digest && d.Digest != parts.manifest.Digest && !strings.Contains(line, "containerd.io/gc.ref.content.m.") {
				t.Errorf("index %q lacks its children", line)
			}
		}
	}
	if got := len(strings.Fields(n.ctr(t, "images", "ls", "-q"))); got < len(locked)*2+1 || got > len(names) {
		t.Errorf("%d image records for %v", got, names)
	}

	known := n.cri(t)
	for _, image := range locked {
		parts, err := readParts(s.Cache, image)
		if err != nil {
			t.Fatal(err)
		}
		named, _, _ := strings.Cut(image.Reference, ":")
		// Two references with one config are one image to the kubelet.
		right := slices.ContainsFunc(known, func(line string) bool {
			return strings.HasPrefix(line, parts.config.Digest.String()+" true ") && strings.Contains(line, image.Reference) && strings.Contains(line, named+"@"+image.Digest)
		})
		if !right {
			t.Errorf("the CRI plugin does not know %s with id %s as pinned: %q", image.Reference, parts.config.Digest, known)
		}
	}
	blobs := filepath.Join(root, "io.containerd.content.v1.content", "blobs", "sha256")
	before := countFiles(t, blobs)
	n.collect(t)
	if after := countFiles(t, blobs); after != before || before == 0 {
		t.Errorf("the garbage collector left %d of %d blobs", after, before)
	}

	store := countFiles(t, filepath.Join(dir, "store", "blobs", "sha256"))
	n.ctr(t, append([]string{"images", "rm", "--sync"}, unique(names)...)...)
	if left := countFiles(t, blobs); left != 0 {
		t.Errorf("%d blobs are left of removed images", left)
	}
	if after := countFiles(t, filepath.Join(dir, "store", "blobs", "sha256")); after != store {
		t.Errorf("removing images took %d files of the store away", store-after)
	}
	n.stop(t)

	// What a user removed stays removed over the next boot.
	boot(t, dir, root)
	again := startNode(t, root)
	if list := again.ctr(t, "images", "ls", "-q"); list != "" {
		t.Errorf("after the second boot there are %s", list)
	}
}

// collect makes containerd collect garbage now: that is what removing a lease synchronously does.
func (n *node) collect(t *testing.T) {
	t.Helper()
	n.ctr(t, "leases", "create", "--id", "collect")
	n.ctr(t, "leases", "delete", "--sync", "collect")
}

// lineOf returns the line that begins with name.
func lineOf(text, name string) string {
	for line := range strings.Lines(text) {
		if fields := strings.Fields(line); len(fields) > 0 && fields[0] == name {
			return line
		}
	}
	return ""
}

func unique(list []string) []string {
	seen := map[string]bool{}
	var once []string
	for _, s := range list {
		if !seen[s] {
			seen[s] = true
			once = append(once, s)
		}
	}
	return once
}

func countFiles(t *testing.T, dir string) int {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	return len(entries)
}
