package conformance

import (
	"bytes"
	"fmt"
	"math/rand/v2"

	"github.com/google/go-containerregistry/pkg/v1/types"
)

// manifests are images that are odd in how their layers are packed and put together.
var manifests = []row{
	{name: "schema-2", docker: true, layers: []layer{base, of(whiteout("f"), file("new", "1"))}},
	{name: "platforms", index: true, layers: []layer{base, of(whiteout("f"))}},
	{name: "platforms-schema-2", index: true, docker: true, layers: []layer{base, of(whiteout("f"))}},
	{name: "gzip-members", layers: []layer{{format: packedGzipMembers, entries: base.entries}}},
	{name: "zstd", layers: []layer{base, {format: packedZstd, entries: []entry{whiteout("f"), file("z", "zstd")}},
		{format: packedZstdFrames, entries: []entry{file("y", "frames")}}}},
	{name: "uncompressed", layers: []layer{{format: packedNot, entries: base.entries},
		{format: packedNot, entries: []entry{file("u", "not compressed")}}}},
	{name: "uncompressed-schema-2", docker: true, layers: []layer{{format: packedNot, mediaType: types.DockerUncompressedLayer, entries: base.entries}}},
	{name: "foreign", docker: true, layers: []layer{base, {mediaType: types.DockerForeignLayer, entries: []entry{file("foreign", "from elsewhere"), whiteout("f")}}}},
	{name: "nondistributable", layers: []layer{base, {mediaType: types.OCIRestrictedLayer, entries: []entry{file("restricted", "not to be passed on")}}}},
	{name: "empty-layers", layers: []layer{
		base,
		of(),
		{tar: make([]byte, 1024)},
		of(file("between", "1")),
		{tar: make([]byte, 10240), format: packedZstd},
		{tar: make([]byte, 1024), format: packedNot},
	}},
	{name: "only-empty-layers", layers: []layer{of(), {tar: make([]byte, 1024)}}},
	{name: "repeated-layers", layers: []layer{base, of(file("again", "1")), of(file("again", "1")), of(whiteout("again")),
		of(whiteout("again"))}},
	{name: "odd-endings", layers: []layer{base, {tar: ending("no-end", nil)}, {tar: ending("padded", make([]byte, 10240))}}},
	{name: "user", user: "app:group", layers: []layer{of(
		dir("etc"), file("etc/passwd", "root:x:0:0::/:/none\napp:x:1234:5678::/:/none\n"), file("etc/group", "root:x:0:\ngroup:x:4321:\n"),
		dir("home", mode(0o700), owner(1234, 4321)), file("home/file", "1", mode(0o600), owner(1234, 4321)),
	)}},
	{name: "user-by-number", user: "1234:5678", layers: []layer{of(file("file", "1", mode(0o600), owner(1234, 5678)))}},
	{name: "many-layers", layers: manyLayers(120)},
	{name: "many-deletions", layers: manyDeletions(20)},
	// These share their lower layers, and one needs them merged.
	{name: "shared-base", layers: []layer{large, base}},
	{name: "shared-base-added", layers: []layer{large, base, of(file("added", "1"), file("large", "small now"))}},
	{name: "shared-base-deleted", layers: []layer{large, base, of(whiteout("f"), whiteout("large"))}},
	{name: "shared-base-deleted-added", layers: []layer{large, base, of(whiteout("f"), whiteout("large")), of(file("added", "2"))}},
	{name: "shared-base-below", layers: []layer{large}},
}

// large is more than what nodeimg puts together with others, and does not compress.
var large = func() layer {
	content := make([]byte, 5<<20)
	if _, err := rand.NewChaCha8([32]byte{1}).Read(content); err != nil {
		panic(err)
	}
	return of(file("large", string(content)), dir("large-dir"), hardLink("large-dir/link", "large"))
}()

// ending is a tar of one file with other bytes in place of the two zero blocks at its end.
func ending(name string, end []byte) []byte {
	b, err := tarOf([]entry{file(name, name)})
	if err != nil {
		panic(err)
	}
	return append(bytes.TrimSuffix(b, make([]byte, 1024)), end...)
}

func manyLayers(n int) []layer {
	var layers []layer
	for i := range n {
		layers = append(layers, of(dir("d"), file(fmt.Sprintf("d/%d", i), fmt.Sprint(i)), file("last", fmt.Sprint(i))))
	}
	return layers
}

func manyDeletions(n int) []layer {
	layers := []layer{base}
	for i := range n {
		layers = append(layers, of(file(fmt.Sprintf("n/%d", i), fmt.Sprint(i)), whiteout(fmt.Sprintf("n/%d", i-3))))
	}
	return layers
}
