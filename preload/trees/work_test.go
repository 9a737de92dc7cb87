package trees_test

import (
	"errors"
	"strconv"
	"strings"
	"testing"

	"github.com/nodeimg/nodeimg/preload/trees"
)

// TestEndlessWork is about small layers that would keep an honest unpacker busy for hours or fill its memory.
func TestEndlessWork(t *testing.T) {
	deep := strings.Repeat("d/", 1800)
	links := []item{dir(strings.TrimSuffix(deep, "/")), symlink("s", deep)}
	var folders, markers []item
	for i := range 500 {
		links = append(links, file("s/"+strconv.Itoa(i), ""))
		folders = append(folders, file(strconv.Itoa(i)+"/"+deep+"f", ""))
	}
	for i := range 15000 {
		markers = append(markers, file(deep+strconv.Itoa(i), ""))
	}
	for i := 2; i <= len(deep); i += 2 {
		markers = append(markers, dir(deep[:i-1]))
	}
	for i := 2; i < len(deep); i += 2 {
		markers = append(markers, whiteout(deep[:i]+".wh..wh..opq"))
	}
	for name, items := range map[string][]item{
		"links to deep folders": links, "folders that only names make": folders, "markers above many files": markers,
	} {
		t.Run(name, func(t *testing.T) {
			c := open(t)
			layer := put(t, c, archive(t, items...))
			if layer.Size > 4<<20 {
				t.Fatalf("%d bytes are no small layer", layer.Size)
			}
			_, err := trees.Plan(t.Context(), c, []trees.Layer{layer})
			if unfit := (*trees.UnfitError)(nil); !errors.As(err, &unfit) || !strings.Contains(unfit.Reason, "more files and links") && !strings.Contains(unfit.Reason, "names in it") {
				t.Errorf("got %v", err)
			}
		})
	}
}
