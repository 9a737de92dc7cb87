package trees_test

import (
	"archive/tar"
	"strings"
	"testing"
	"time"
)

// capability is CAP_NET_BIND_SERVICE, effective and permitted.
const capability = "\x01\x00\x00\x02\x00\x04\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"

func whiteout(name string) item { return file(name, "") }

// cases are layers, bottom first, that containerd unpacks and we unpack too.
var cases = map[string][][]item{
	"plain": {{dir("a"), file("a/f", "hello"), symlink("l", "a/f"), link("a/g", "a/f")}},
	"two":   {{dir("a"), file("a/f", "hello")}, {dir("a"), file("a/g", "world")}},
	"every attribute": {{
		dir("d").with(func(h *tar.Header) { h.Mode, h.Uid, h.Gid = 0o3711, 70000, 80000 }).xattr("user.d", "1"),
		file("d/f", "x").with(func(h *tar.Header) { h.Mode, h.Uid, h.Gid = 0o6755, 3_000_000, 4_000_000_000 }).xattr("user.f", "2").xattr("security.capability", capability),
		symlink("d/l", "/nowhere").with(func(h *tar.Header) { h.Uid = 5 }).xattr("user.no", "x"),
		device(tar.TypeChar, "d/c", 1, 3), device(tar.TypeBlock, "d/b", 8, 1), device(tar.TypeFifo, "d/p", 0, 0),
		device(tar.TypeChar, "d/big", 4095, 1<<20-1), device(tar.TypeChar, "d/cut", 4097, 1<<20+5),
		file("d/"+strings.Repeat("n", 255), "long"),
		file("old", "1969").with(func(h *tar.Header) { h.ModTime = time.Unix(-5, 0) }),
		file("new", "2300").with(func(h *tar.Header) { h.ModTime = time.Unix(10413792000, 0) }),
	}},
	"trusted attributes are not set":   {{dir("d").xattr("trusted.overlay.opaque", "y"), file("d/f", "").xattr("trusted.x", "y")}, {dir("d").xattr("trusted.overlay.opaque", "y")}},
	"attributes of unknown namespaces": {{file("f", "").xattr("com.apple.quarantine", "y")}},
	"empty attribute":                  {{file("f", "").xattr("user.e", "")}},
	"whiteout of a file":               {{dir("a"), file("a/f", "1"), file("a/g", "2")}, {dir("a"), whiteout("a/.wh.f")}},
	"whiteout of a directory":          {{dir("a"), dir("a/b"), file("a/b/f", "1")}, {whiteout(".wh.a")}},
	"whiteout of nothing":              {{dir("a"), file("a/f", "1")}, {dir("a"), whiteout("a/.wh.x"), whiteout("b/c/.wh.y")}},
	"whiteout of a whiteout":           {{file("a/f", "1")}, {whiteout("a/.wh.f")}, {whiteout("a/.wh.f"), file("x", "x")}, {whiteout("a/.wh..wh.f")}},
	"deleted and made again":           {{file("a/f", "1")}, {whiteout("a/.wh.f")}, {file("a/f", "3")}},
	"opaque directory":                 {{dir("a"), file("a/f", "1"), dir("a/s"), file("a/s/x", "")}, {dir("a"), whiteout("a/.wh..wh..opq"), file("a/g", "2")}},
	"opaque directory, marker last":    {{dir("a"), file("a/f", "1")}, {dir("a"), file("a/g", "2"), whiteout("a/.wh..wh..opq")}},
	"opaque without effect":            {{dir("a")}, {dir("a"), whiteout("a/.wh..wh..opq"), file("a/g", "2")}},
	"opaque root":                      {{file("f", "1")}, {whiteout(".wh..wh..opq"), file("g", "1")}},
	"opaque over shadowed files":       {{file("a/f", "1"), dir("a/d")}, {dir("a"), whiteout("a/.wh..wh..opq"), file("a/f", "2"), file("a/d", "3")}},
	"opaque below opaque":              {{file("a/b/f", "1"), file("a/b/g", "1")}, {dir("a"), whiteout("a/.wh..wh..opq"), dir("a/b"), file("a/b/g", "2")}},
	"whiteouts in the bottom layer":    {{file("a/f", "1"), whiteout("a/.wh.f"), file("b/x/y", ""), file("b/g", ""), whiteout("b/.wh..wh..opq"), whiteout("b/.wh.nothing")}},
	"opaque twice in the bottom layer": {{file("a/x/y", ""), whiteout("a/.wh..wh..opq"), file("a/z/y", ""), whiteout("a/.wh..wh..opq")}},
	"parents that lead to the root":    {{symlink("a", "."), symlink("b", "/")}, {file("a/f", "1"), file("b/f", "1")}},
	"file becomes a directory and back": {
		{file("a", "1")}, {dir("a"), file("a/b", "2")}, {file("a", "3")}, {dir("a"), file("a/c", "4")},
	},
	"directory over a file over a directory": {{dir("d"), file("d/x", "")}, {file("d", "")}, {dir("d"), file("d/y", "")}},
	"device 0:0 in a layer":                  {{file("a/f", "1"), file("g", "")}, {device(tar.TypeChar, "a/f", 0, 0), device(tar.TypeChar, "new", 0, 0)}},
	"duplicates":                             {{file("f", "1"), file("f", "22"), dir("f"), file("f/x", ""), file("f", "333"), dir("d").xattr("user.a", "1"), dir("d").with(func(h *tar.Header) { h.Mode = 0o700 })}},
	"hard links": {{
		file("a", "1").xattr("security.capability", capability),
		link("b", "a").with(func(h *tar.Header) { h.Mode, h.Uid = 0o600, 7 }),
		symlink("s", "a"), link("t", "s"), link("./u", "/a").xattr("security.capability", capability),
	}},
	"hard links without the capabilities": {{file("a", "1").xattr("security.capability", capability).xattr("user.a", "1"), link("b", "a"), file("c", "1").xattr("security.capability", capability), link("d", "c").xattr("security.capability", capability)}},
	"hard links that a whiteout parts":    {{file("a", "1"), link("b", "a"), link("c", "a"), file("d", "")}, {whiteout(".wh.b")}, {file("e", "")}, {whiteout(".wh.c")}},
	"all names of a hard link deleted":    {{file("a", "1"), link("b", "a"), file("d", "")}, {whiteout(".wh.b"), whiteout(".wh.a")}},
	"parents that are links":              {{dir("usr"), dir("usr/lib"), symlink("lib", "usr/lib"), file("lib/x", "1"), symlink("abs", "/usr"), file("abs/lib/y", "2")}, {file("lib/z", "3")}},
	"links to links":                      {{symlink("a", "b"), symlink("b", "c/d"), dir("c"), dir("c/d"), symlink("c/d/e", "../f"), file("a/e/x", "1"), file("a/y", "")}},
	"parents without entries":             {{dir("a").with(func(h *tar.Header) { h.Mode, h.Uid = 0o700, 5 }).xattr("user.a", "1"), file("a/f", "")}, {file("a/g", "")}, {file("a/n/g", "")}},
	"parents of a set-gid directory":      {{dir("a").with(func(h *tar.Header) { h.Mode, h.Gid = 0o2755, 5 }), file("a/b/c", "").with(func(h *tar.Header) { h.Gid = -1 })}},
	"names that are cleaned":              {{dir("./a"), file("/a/f", "1"), file("./a//b/../c", "2"), dir("."), dir("/"), dir("./").with(func(h *tar.Header) { h.Mode = 0o700 })}},
	"global header":                       {{file("pax_global_header", "1"), {Header: tar.Header{Typeflag: tar.TypeXGlobalHeader, Name: "pax_global_header"}}, file("f", "")}},
	"directory that became a link":        {{dir("a"), dir("b"), symlink("a", "b"), file("a/f", "1")}},
	"many layers":                         many(),
	"empty layers":                        {{}, {}, {file("a", "1")}, {}, {whiteout(".wh.a")}, {}},
	"long path":                           {{file(strings.Repeat("directory/", 300)+"f", "deep")}},
	"large record":                        {{file("f", "x").with(func(h *tar.Header) { h.PAXRecords["NODEIMG.comment"] = strings.Repeat("c", 1<<20-100) })}},
	"names that are not UTF-8":            {{file("\xff\xfe", "1"), symlink("l\x80", "\xff")}},
	"GNU long names":                      {{item{Header: tar.Header{Typeflag: tar.TypeReg, Name: strings.Repeat("n", 200), Mode: 0o644, ModTime: time.Unix(5, 0), Format: tar.FormatGNU}, content: "x"}}},
	"old marks of AUFS":                   {{file("f", "")}, {whiteout(".wh..wh.plnk"), whiteout(".wh..wh.aufs")}},
}

// many makes 120 layers, as many as containerd's users meet.
func many() [][]item {
	var layers [][]item
	for i := range 120 {
		name := string(rune('a'+i%20)) + "/" + string(rune('a'+i/20))
		layers = append(layers, []item{dir("x"), file("x/"+name, name), file(name, strings.Repeat("x", i))})
		if i%50 == 49 {
			layers[i] = append(layers[i], whiteout("x/.wh.a"))
		}
	}
	return layers
}

func TestTreesAreContainerds(t *testing.T) {
	for name, layers := range cases {
		t.Run(name, func(t *testing.T) {
			var archives [][]byte
			for _, items := range layers {
				archives = append(archives, archive(t, items...))
			}
			if err := oracle(t, archives); err != nil {
				t.Fatal(err)
			}
		})
	}
}
