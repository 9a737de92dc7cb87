package conformance

import (
	"archive/tar"
	"fmt"
	"strings"
	"time"
)

// files are images whose entries are odd in themselves.
var files = []row{
	{name: "hard-links", layers: []layer{of(
		file("a", "content", mode(0o640)), hardLink("b", "a", mode(0o640)), dir("d"), hardLink("d/c", "/a", mode(0o640)),
		hardLink("d/e", "./d/c", mode(0o640)),
		symlink("s", "nowhere"), hardLink("s2", "s", mode(0o777)), fifo("p"), hardLink("p2", "p", mode(0o600)),
		char("n", 1, 3), hardLink("n2", "n", mode(0o620)),
	)}},
	// The link's own header counts, for all names.
	{name: "hard-links-with-other-attributes", layers: []layer{of(
		file("a", "content", mode(0o600)), hardLink("b", "a", mode(0o4755), owner(9, 10), at(modified.Add(time.Hour)),
			xattr("user.link", "1")),
	)}},
	{name: "hard-links-broken-by-deletion", layers: []layer{
		of(file("a", "content"), hardLink("b", "a"), hardLink("c", "a"), file("x", "x"), hardLink("y", "x")),
		of(whiteout("a"), whiteout("y")),
	}},
	{name: "hard-links-broken-by-replacement", layers: []layer{
		of(file("a", "content"), hardLink("b", "a"), hardLink("c", "a")),
		of(file("b", "other")),
	}},
	{name: "hard-links-hidden-by-opaque", layers: []layer{
		of(dir("d"), file("d/a", "content"), hardLink("b", "d/a"), hardLink("d/c", "b")),
		of(dir("d"), opaque("d"), file("d/new", "1"), hardLink("d/newer", "d/new")),
	}},
	{name: "hard-links-broken-in-one-layer", layers: []layer{of(
		file("a", "first"), hardLink("b", "a"), hardLink("c", "b"), file("a", "second"), hardLink("d", "a"),
	)}},
	{name: "hard-link-through-symlink", layers: []layer{of(dir("d"), file("d/a", "content"), symlink("s", "d"), hardLink("b", "s/a"))}},
	{name: "hard-link-across-layers", refused: true, layers: []layer{base, of(hardLink("link", "f", mode(0o644)),
		hardLink("d/link", "d/old", mode(0o644)))}},
	{name: "hard-link-across-three-layers", refused: true, layers: []layer{
		of(file("a", "content")), of(hardLink("b", "a")), of(hardLink("c", "b"), whiteout("a")),
	}},

	{name: "capabilities", layers: []layer{
		of(file("ping", "elf", mode(0o755), capability(1<<13)), file("apiserver", "elf", mode(0o755), capability(1<<10))),
		of(file("ping", "elf2", mode(0o755), capability(1<<13|1<<10))),
	}},
	{name: "user-xattrs", layers: []layer{of(
		file("f", "f", xattr("user.plain", "value"), xattr("user.empty", ""), xattr("user.binary", "\x00\x01=\n\xff"),
			xattr("user.ünicode", "ü"),
			xattr("user.long", strings.Repeat("x", 1500)), xattr("user.a.b-c_d", "1")),
		dir("d", xattr("user.dir", "1")), symlink("s", "f", xattr("user.ignored", "1")), fifo("p", xattr("user.ignored", "1")),
		file("t", "t", xattr("trusted.ignored", "1"), xattr("trusted.overlay.opaque", "y")),
		dir("t2", xattr("trusted.overlay.opaque", "y")),
		file("many", "", manyXattrs()),
	)}},
	{name: "special-modes", layers: []layer{of(
		file("setuid", "1", mode(0o4755), owner(1, 2)), file("setgid", "2", mode(0o2755), owner(3, 4)), file("all", "3", mode(0o7777)),
		file("none", "4", mode(0)), dir("sticky", mode(0o1777)), dir("setgid-dir", mode(0o2770), owner(5, 6)),
		file("setgid-dir/inside", "5", owner(7, 8)),
		dir("closed", mode(0)), file("closed/inside", "6"), file("typed", "7", mode(0o100644)),
	)}},
	{name: "devices", layers: []layer{of(
		fifo("fifo", owner(1, 1)), char("null", 1, 3), char("large", 511, 1048575), block("loop", 7, 0, mode(0o4660)), block("zero", 0, 0),
		char("zero-one", 0, 1),
		dir("in"), fifo("in/fifo", mode(0o777)),
	)}},
	{name: "large-ids", layers: []layer{of(
		file("65536", "1", owner(65536, 65537)), file("octal", "2", owner(2097151, 2097152)),
		file("large", "3", owner(4294967294, 4294967294)),
		dir("dir", owner(70000, 80000)), symlink("link", "x", owner(100000, 100001)), file("gnu", "4", owner(3000000, 3000001),
			old(tar.FormatGNU)),
	)}},
	{name: "long-names", layers: []layer{of(
		append(deepPath(3700), file(strings.Repeat("n", 255), "name"), symlink("long-target", strings.Repeat("t/", 2047)+"t"),
			file(strings.Repeat("g", 200)+"/"+strings.Repeat("h", 200), "gnu", old(tar.FormatGNU)),
			file(strings.Repeat("u", 90)+"/"+strings.Repeat("v", 90), "ustar", old(tar.FormatUSTAR)))...,
	)}},
	// The folder of the node image that the tree lies in needs some of the 4095 bytes that the kernel takes.
	{name: "longer-name", unfit: true, layers: []layer{of(deepPath(3900)...)}},
	{name: "too-long-name", unfit: true, refused: true, impossible: true, layers: []layer{of(deepPath(4096)...)}},
	{name: "large-pax-header", layers: []layer{of(file("a", "a", pax("comment", strings.Repeat("c", 1_000_000))), file("b", "b"))}},
	{name: "global-header", layers: []layer{of(
		entry{header: tar.Header{Typeflag: tar.TypeXGlobalHeader, PAXRecords: map[string]string{"comment": "0123456789abcdef"}}},
		file("a", "a"),
	)}},
	{name: "sparse", layers: []layer{of(
		sparseFile("sparse", 3<<20, "data", 4096, 1<<20, 3<<20-8), file("after", "1"), sparseFile("hole", 1<<20, ""),
		sparseFile("dir/sparse", 10, "0123456789", 0),
	)}},
	{name: "old-formats", layers: []layer{of(
		raw(rawHeader(0, "v7", 0)), raw(rawHeader(0, "v7-dir/", 0)), raw(append(rawHeader(0, "v7-file", 4), padded("data")...)),
		file("gnu", "g", old(tar.FormatGNU)), file("ustar", "u", old(tar.FormatUSTAR)),
	)}},
	{name: "contiguous-file", unfit: true, refused: true, impossible: true, layers: []layer{of(raw(append(rawHeader('7', "contiguous", 4),
		padded("data")...)))}},
	{name: "dots-and-slashes", layers: []layer{of(
		dir("./", mode(0o700), owner(1, 2), xattr("user.root", "1")), dir("./d"), file("./d/a", "a"), file("d//b", "b"), file("d/./c", "c"),
		file("./e/../e/f", "f"),
	)}},
	{name: "times", layers: []layer{of(
		file("fraction", "1", at(time.Unix(1600000000, 123456789))), file("epoch", "2", at(time.Unix(0, 0))),
		file("negative", "3", at(time.Unix(-1, 0)), old(tar.FormatGNU)),
		file("long-ago", "4", at(time.Unix(-1500000000, 0))), file("fraction-below-zero", "5", at(time.Unix(-2, 500000000))),
		file("2100", "6", at(time.Date(2100, 1, 1, 0, 0, 0, 0, time.UTC))),
		file("last", "7", at(time.Unix(1<<33, 0))), dir("dir", at(time.Unix(1500000000, 1))), file("dir/inside", "8"),
		symlink("link", "x", at(time.Unix(1400000000, 999999999))), fifo("fifo", at(time.Unix(1, 1))),
		file("accessed", "9", func(h *tar.Header) { h.AccessTime, h.ChangeTime = time.Unix(1700000000, 5), time.Unix(1700000001, 0) }),
	)}},
	{name: "names", layers: []layer{of(
		file("new\nline", "1"), file("tab\tand \\ \"quotes\" 'too'", "2"), file("ünïcödé-日本語-🐧", "3"),
		file("lat\xecn1-\xe9", "4", old(tar.FormatGNU)),
		file(" leading and trailing ", "5"), file("-dash", "6"), file("..dots", "7"), file("...", "8"), file("a..b", "9"),
		file("e\u0301-decomposed", "10"), file("\u00e9-composed", "11"),
		file(".wh", "12"), file("x.wh.y", "13"), file(".w", "14"), dir("%41"), file("%41/$HOME", "15"),
		symlink("to-latin1", "\xe9", old(tar.FormatGNU)), symlink("to-newline", "new\nline"),
		file("A", "16"), file("a", "17"), file("\x01\x7f", "18"), file("[glob]*?", "19"), dir("fs"), file("fs/work", "20"),
	)}},
}

func manyXattrs() change {
	return func(h *tar.Header) {
		for i := range 40 {
			xattr(fmt.Sprintf("user.number-%d", i), fmt.Sprint(i))(h)
		}
	}
}

// deepPath is a file whose path has length bytes, with some of its parents. A path of 4096 bytes is what the kernel takes, and containerd
// needs some of them for its own folder.
func deepPath(length int) []entry {
	const part = "a-folder-with-a-long-name-of-sixty-four-bytes-so-that-some-are-ok/"
	path := strings.Repeat(part, length/len(part))
	path += strings.Repeat("x", length-len(path))
	return []entry{dir(path[:len(part)*3]), file(path, "deep", mode(0o600)), hardLink(path[:len(part)*2]+"link", path, mode(0o600))}
}
