package conformance

// base is a layer with something of everything, for others to change.
var base = of(
	dir("d", mode(0o750), owner(11, 12), xattr("user.below", "1")), file("d/old", "old"), file("d/kept", "kept"),
	dir("d/sub", mode(0o1777)), file("d/sub/deep", "deep"), file("f", "file"), symlink("s", "d"), fifo("p"),
	dir("e"), dir("e/empty"),
)

// deletions are images in which layers delete or replace what lies below.
var deletions = []row{
	{name: "whiteout-file", layers: []layer{base, of(whiteout("f"), whiteout("d/old"), whiteout("s"), whiteout("p"))}},
	{name: "whiteout-directory", layers: []layer{base, of(whiteout("d"), whiteout("e/empty"))}},
	{name: "whiteout-below-implicit-parents", layers: []layer{base, of(whiteout("d/sub/deep"))}},
	{name: "whiteout-of-nothing", layers: []layer{
		of(file("a", "1"), whiteout("never"), dir("w"), whiteout("w/never")),
		of(whiteout("x/y/never"), whiteout("neither")),
	}},
	{name: "whiteout-of-whiteout", layers: []layer{
		base,
		of(whiteout("f"), whiteout("d")),
		of(file("f", "again"), dir("d"), file("d/again", "1")),
		of(whiteout("f"), whiteout("d")),
	}},
	{name: "deleted-and-recreated", layers: []layer{
		base,
		of(whiteout("f"), whiteout("d")),
		of(file("f", "new"), dir("d", mode(0o700)), file("d/new", "only this")),
		of(file("d/newer", "and this")),
	}},
	// containerd's overlayfs lets the folder's own entry replace the whiteout, so that what it should delete shows.
	{name: "whiteout-and-directory-in-one-layer", layers: []layer{base, of(whiteout("d"), dir("d"), file("d/new", "1"))}},
	{name: "whiteout-and-file-in-one-layer", layers: []layer{base, of(whiteout("f"), file("f", "new"), whiteout("d"), file("d", "a file now"))}},
	{name: "whiteout-attributes", layers: []layer{base, of(whiteout("f", owner(5, 6), mode(0o777)))}},
	{name: "whiteout-through-symlink", layers: []layer{base, of(whiteout("s/old"))}},
	{name: "opaque-directory", layers: []layer{base, of(dir("d", mode(0o711)), opaque("d"), file("d/new", "1"))}},
	{name: "opaque-implicit", layers: []layer{base, of(opaque("d/sub"))}},
	{name: "opaque-last", layers: []layer{base, of(dir("d"), file("d/new", "1"), dir("d/sub"), file("d/sub/new", "2"), opaque("d"))}},
	{name: "opaque-twice", layers: []layer{
		base,
		of(dir("d"), opaque("d"), file("d/second", "2")),
		of(file("d/third", "3")),
		of(dir("d"), opaque("d"), file("d/fourth", "4"), dir("d/sub"), opaque("d/sub")),
	}},
	{name: "opaque-new", layers: []layer{base, of(dir("new"), opaque("new"), file("new/a", "a"))}},
	{name: "opaque-bottom", layers: []layer{of(dir("d"), opaque("d"), file("d/a", "a"))}},
	{name: "opaque-root", layers: []layer{base, of(newEntry('0', ".wh..wh..opq", 0o600, nil), file("only", "this"))}},
	{name: "char-device-zero", layers: []layer{base, of(char("f", 0, 0), char("d/old", 0, 0), char("other", 0, 0))}},
	// Such names would be whiteouts in a layer of the node image.
	{name: "aufs-metadata", unfit: true, layers: []layer{of(
		file("a", "a"), dir(".wh..wh.plnk", mode(0o700)), file(".wh..wh.plnk/7.8", "hidden"), file(".wh..wh.aufs", ""), dir(".wh..wh.orph"),
	)}},

	{name: "file-to-directory", layers: []layer{base, of(dir("f", mode(0o711)), file("f/inside", "1"))}},
	{name: "file-to-implicit-directory", layers: []layer{base, of(file("f/inside", "1"))}},
	{name: "directory-to-file", layers: []layer{base, of(file("d", "file"))}},
	{name: "there-and-back", layers: []layer{
		base,
		of(dir("f"), file("f/inside", "1"), file("d", "file")),
		of(file("f", "file again"), dir("d"), file("d/inside", "2")),
		of(file("d/more", "3")),
	}},
	{name: "there-and-back-in-one-layer", layers: []layer{base, of(
		file("f", "file"), dir("f"), file("f/inside", "1"), file("f", "file again"),
		dir("g"), file("g/inside", "1"), file("g", "file"), dir("g"), file("g/other", "2"),
	)}},
	{name: "every-type-replaced", layers: []layer{
		of(file("1", "f"), symlink("2", "1"), fifo("3"), char("4", 1, 3), block("5", 7, 0), dir("6"), file("6/in", "in")),
		of(symlink("1", "2"), fifo("2"), char("3", 1, 5), block("4", 7, 1), dir("5"), file("6", "file")),
	}},
	{name: "symlink-to-directory", layers: []layer{base, of(dir("s"), file("s/inside", "1"))}},
	{name: "directory-to-symlink", layers: []layer{base, of(symlink("d", "e"))}},
	{name: "symlinked-parent-in-one-layer", layers: []layer{of(
		dir("target"), symlink("link", "target"), file("link/through", "1"),
		symlink("absolute", "/target"), file("absolute/through-too", "2"),
		dir("target/inner"), symlink("chain", "link/inner"), file("chain/deep", "4"), dir("chain/dir", mode(0o700)),
	)}},
	// Parents are only looked for in the layer itself: the symlink gives way to a folder.
	{name: "symlinked-parent-across-layers", layers: []layer{base, of(file("s/through", "1"))}},
	{name: "symlink-loop-replaced", layers: []layer{of(symlink("a", "b"), symlink("b", "a")), of(dir("a"), file("a/in", "1"))}},

	{name: "duplicates", layers: []layer{of(
		file("a", "first"), file("a", "second", mode(0o600), xattr("user.second", "2")),
		dir("d", xattr("user.first", "1"), mode(0o700)), file("d/x", "x"), dir("d", xattr("user.second", "2"), owner(3, 4)),
		file("b", "1", xattr("user.gone", "1")), symlink("b", "a"), symlink("b", "d"),
		fifo("p"), char("p", 1, 3), whiteout("gone"), file("gone", "not"),
	)}},
	{name: "implicit-parents", layers: []layer{
		of(file("a/b/c/file", "1"), dir("a/b", mode(0o711), owner(7, 8)), symlink("x/y/link", "z")),
		of(file("a/b/c/other", "2"), file("x/new/file", "3")),
	}},
	{name: "implicit-parents-attributes", layers: []layer{base, of(file("d/sub/new", "1"), file("d/new", "2"))}},
	{name: "directory-attributes", layers: []layer{base, of(dir("d", mode(0o2775), owner(21, 22), xattr("user.above", "2")))}},
}
