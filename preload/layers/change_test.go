package layers_test

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/moby/buildkit/client"

	"github.com/nodeimg/nodeimg/internal/cache"
	"github.com/nodeimg/nodeimg/internal/progress"
	"github.com/nodeimg/nodeimg/preload/layers"
	"github.com/nodeimg/nodeimg/recipes"
)

// screen remembers the last state of each step, by name, and what was logged.
type screen struct {
	sync.Mutex
	steps map[string]client.Vertex
	logs  strings.Builder
}

func (s *screen) show(status *client.SolveStatus) {
	s.Lock()
	defer s.Unlock()
	for _, v := range status.Vertexes {
		s.steps[v.Name] = *v
	}
	for _, l := range status.Logs {
		s.logs.Write(l.Data)
	}
}

// makeShown makes layers and returns what was on the screen.
func makeShown(t *testing.T, c *cache.Cache, images []recipes.LockedImage, options layers.Options) ([]layers.Layer, *screen) {
	t.Helper()
	s := &screen{steps: map[string]client.Vertex{}}
	made, err := layers.Make(progress.WithSink(t.Context(), s.show), c, images, options)
	if err != nil {
		t.Fatal(err)
	}
	return made, s
}

// TestOneOfTenChanged makes nothing anew but the layers of the image that changed.
func TestOneOfTenChanged(t *testing.T) {
	bothLayouts(t, func(t *testing.T, layout recipes.Layout) {
		for _, limit := range []int{80, 4} {
			t.Run(fmt.Sprint(limit), func(t *testing.T) {
				c := newCache(t)
				base := layer(t, "base", big)
				var images []recipes.LockedImage
				for i := range 10 {
					images = append(images, put(t, c, name(i), imageOf(t, base, layer(t, name(i)[len(name(i))-5:], small))))
				}
				o := options(layout)
				o.Max = limit
				before := digests(t, mustMake(t, c, images, o), "")
				images[7] = put(t, c, name(7), imageOf(t, base, layer(t, "new", small)))
				made, screen := makeShown(t, c, images, o)
				var changed, cached int
				for _, l := range made {
					d := digests(t, []layers.Layer{l}, "")[0]
					if slices.Contains(before, d) {
						continue
					}
					changed++
					if !slices.Contains(l.References, name(7)) {
						t.Errorf("the layer of %v changed", l.References)
					}
				}
				for _, v := range screen.steps {
					if v.Completed == nil || v.Error != "" {
						t.Errorf("step %s: %q", v.Name, v.Error)
					}
					if v.Cached {
						cached++
					}
				}
				if changed != 1 || cached != len(made)-1 || len(made) != min(11, limit) {
					t.Errorf("%d of %d layers changed, %d were cached", changed, len(made), cached)
				}
			})
		}
	})
}

// TestMany holds sets that need more layers than there may be to the budget, with everything of all images in the layers.
func TestMany(t *testing.T) {
	bothLayouts(t, func(t *testing.T, layout recipes.Layout) {
		c := newCache(t)
		base := layer(t, "base", big)
		var images []recipes.LockedImage
		for i := range 60 {
			images = append(images, put(t, c, name(i), imageOf(t, base, layer(t, fmt.Sprint("app", i), small))))
		}
		var many []v1.Layer
		for i := range 130 {
			// Unpacked each is big, packed all are small.
			many = append(many, poorLayer(t, fmt.Sprint("layer", i), 4<<20))
		}
		images = append(images, put(t, c, "registry.example/many:1", imageOf(t, many...)))
		o := options(layout)
		o.Max = 40
		made := mustMake(t, c, images, o)
		if len(made) > o.Max {
			t.Errorf("%d layers", len(made))
		}
		checkContents(t, c, images, made, layout)
	})
}

// TestRefused makes nothing for a set with an image that must be refused.
func TestRefused(t *testing.T) {
	bothLayouts(t, func(t *testing.T, layout recipes.Layout) {
		c := newCache(t)
		good := put(t, c, "registry.example/good:1", imageOf(t, layer(t, "good", big)))
		made := func() []string {
			found, err := filepath.Glob(filepath.Join(c.Root(), "facts", "preload-layer-*"))
			if err != nil {
				t.Fatal(err)
			}
			return found
		}
		for what, bad := range map[string]recipes.LockedImage{
			"a wrong diff id": put(t, c, "registry.example/bad:1", withDiffIDs(t, imageOf(t, layer(t, "bad", small)), 1)),
			"too few layers":  put(t, c, "registry.example/bad:1", withDiffIDs(t, imageOf(t, layer(t, "bad", small)), 0)),
			"an escape":       put(t, c, "registry.example/bad:1", imageOf(t, layerOf(t, file("../../etc/passwd", []byte("root"))))),
		} {
			blobs := blobsIn(t, c)
			_, err := layers.Make(t.Context(), c, []recipes.LockedImage{bad}, options(layout))
			if !errors.As(err, new(*recipes.InputError)) || !strings.Contains(err.Error(), "registry.example/bad:1") {
				t.Errorf("%s: %v", what, err)
			}
			if after := blobsIn(t, c); !slices.Equal(blobs, after) {
				t.Errorf("%s: the cache has new blobs: %v", what, after)
			}
			if _, err := layers.Make(t.Context(), c, []recipes.LockedImage{good, bad}, options(layout)); err == nil || len(made()) != 0 {
				t.Errorf("%s: beside a good image: %v, made %v", what, err, made())
			}
		}
		mustMake(t, c, []recipes.LockedImage{good}, options(layout))
		if len(made()) != 1 {
			t.Errorf("the good image alone has %d layers", len(made()))
		}
	})
}

// TestUnfit keeps an image packed that cannot be unpacked faithfully, and says so.
func TestUnfit(t *testing.T) {
	c := newCache(t)
	attribute := file("data", []byte("x"))
	attribute.header.PAXRecords = map[string]string{"SCHILY.xattr.user.big": strings.Repeat("x", 5000)}
	images := []recipes.LockedImage{
		put(t, c, "registry.example/fit:1", imageOf(t, layer(t, "a", small))),
		put(t, c, "registry.example/unfit:1", imageOf(t, layerOf(t, attribute), layer(t, "b", small))),
	}
	made, screen := makeShown(t, c, images, options(recipes.LayoutUnpacked))
	if len(made) != 2 || len(made[0].Contents.Snapshots) != 1 || len(made[1].Contents.Snapshots) != 0 || len(made[1].Contents.Blobs) != 2 {
		t.Errorf("made %+v", made)
	}
	if _, ok := screen.steps["[preload] registry.example/unfit:1 stays packed"]; !ok || !strings.Contains(screen.logs.String(), "data") {
		t.Errorf("on the screen: %v\n%s", screen.steps, &screen.logs)
	}
}

// TestRepair makes a layer again whose blob was cut or is gone.
func TestRepair(t *testing.T) {
	c := newCache(t)
	images := []recipes.LockedImage{put(t, c, "registry.example/a:1", imageOf(t, layer(t, "a", small)))}
	before := digests(t, mustMake(t, c, images, options(recipes.LayoutUnpacked)), "")
	spoil(t, c, before[0])
	made := mustMake(t, c, images, options(recipes.LayoutUnpacked))
	checkContents(t, c, images, made, recipes.LayoutUnpacked)
	if after := digests(t, made, ""); !slices.Equal(before, after) {
		t.Errorf("before %v, after %v", before, after)
	}
}

// TestNoRoom wants an error that says what to do.
func TestNoRoom(t *testing.T) {
	c := newCache(t)
	images := []recipes.LockedImage{put(t, c, "registry.example/a:1", imageOf(t, layer(t, "a", small)))}
	_, err := layers.Make(t.Context(), c, images, layers.Options{Epoch: epoch})
	if !errors.As(err, new(*recipes.InputError)) || !strings.Contains(err.Error(), "maxLayers") {
		t.Errorf("got %v", err)
	}
}

// TestCancel leaves nothing behind when it ends while a layer is being written.
func TestCancel(t *testing.T) {
	c := newCache(t)
	images := []recipes.LockedImage{put(t, c, "registry.example/a:1", imageOf(t, giant(t, "a", 512<<20)))}
	reason := errors.New("enough")
	ctx, cancel := context.WithCancelCause(t.Context())
	defer cancel(nil)
	blobs := -1
	sink := func(status *client.SolveStatus) {
		if len(status.Statuses) > 0 && status.Statuses[0].Current > 0 && blobs < 0 {
			blobs = len(blobsIn(t, c))
			cancel(reason)
		}
	}
	if _, err := layers.Make(progress.WithSink(ctx, sink), c, images, options(recipes.LayoutUnpacked)); !errors.Is(err, reason) {
		t.Errorf("got %v", err)
	}
	left, err := filepath.Glob(filepath.Join(c.Root(), "partial", "*"))
	if err != nil || len(left) != 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
	if after := len(blobsIn(t, c)); blobs < 0 || after != blobs {
		t.Errorf("%d blobs before, %d after", blobs, after)
	}
}
