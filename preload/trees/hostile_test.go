package trees_test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"errors"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"

	"github.com/nodeimg/nodeimg/preload/trees"
)

func TestHostileEntries(t *testing.T) {
	for name, test := range map[string]struct {
		items []item
		entry string
	}{
		"name with ..":                       {[]item{file("../f", "")}, "../f"},
		"name that leaves and comes back":    {[]item{file("a/../../root/f", "")}, "a/../../root/f"},
		"absolute name with ..":              {[]item{file("/../f", "")}, "/../f"},
		"directory ..":                       {[]item{dir("..")}, "../"},
		"hard link out of the tree":          {[]item{link("passwd", "../../etc/passwd")}, "passwd"},
		"hard link through a symbolic link":  {[]item{symlink("up", "../../etc"), link("passwd", "up/passwd")}, "passwd"},
		"entry through a symbolic link":      {[]item{symlink("up", "../.."), file("up/etc/passwd", "")}, "up/etc/passwd"},
		"entry through two symbolic links":   {[]item{dir("a"), symlink("a/b", ".."), symlink("c", "a/b/../../.."), file("c/f", "")}, "c/f"},
		"entry through an absolute link":     {[]item{symlink("up", "/../etc"), file("up/passwd", "")}, "up/passwd"},
		"whiteout of the parent":             {[]item{dir("a"), whiteout("a/.wh...")}, "a/.wh..."},
		"whiteout of the directory":          {[]item{dir("a"), whiteout("a/.wh..")}, "a/.wh.."},
		"whiteout without a name":            {[]item{whiteout(".wh.")}, ".wh."},
		"whiteout through a symbolic link":   {[]item{symlink("up", "../.."), whiteout("up/.wh.etc")}, "up/.wh.etc"},
		"hard link with an absolute way out": {[]item{link("f", "/a/../../f")}, "f"},
	} {
		t.Run(name, func(t *testing.T) {
			c := open(t)
			good := put(t, c, archive(t, file("good", "")))
			bad := put(t, c, archive(t, test.items...))
			for _, layers := range [][]trees.Layer{{bad}, {good, bad}, {bad, good}} {
				_, err := trees.Plan(t.Context(), c, layers)
				var hostile *trees.HostileError
				if !errors.As(err, &hostile) || hostile.Layer != bad.Digest || strings.TrimSuffix(hostile.Entry, "/") != strings.TrimSuffix(test.entry, "/") {
					t.Errorf("got %v, want a refusal of %q in %s", err, test.entry, bad.Digest)
				}
			}
		})
	}
}

func TestHostileLayers(t *testing.T) {
	plain := archive(t, file("f", strings.Repeat("content ", 1000)), dir("d"))
	var zipped, standard bytes.Buffer
	g := gzip.NewWriter(&zipped)
	_, _ = g.Write(plain)
	_ = g.Close()
	z, err := zstd.NewWriter(&standard)
	if err != nil {
		t.Fatal(err)
	}
	_, _ = z.Write(plain)
	_ = z.Close()
	right := digest.FromBytes(plain)
	const tarLayer, zstdLayer = "application/vnd.oci.image.layer.v1.tar", "application/vnd.oci.image.layer.v1.tar+zstd"
	cut := func(b []byte) []byte { return b[:len(b)-20] }
	followed := append(bytes.Clone(plain), []byte(strings.Repeat("x", 512))...)
	for name, test := range map[string]struct {
		blob      []byte
		mediaType string
		diffID    digest.Digest
		says      string
	}{
		"wrong diff id":            {zipped.Bytes(), gzipLayer, digest.FromString("lie"), "diff id"},
		"no diff id":               {zipped.Bytes(), gzipLayer, "", "diff id"},
		"unknown digest":           {zipped.Bytes(), gzipLayer, "md5:d41d8cd98f00b204e9800998ecf8427e", "diff id"},
		"truncated gzip":           {cut(zipped.Bytes()), gzipLayer, right, "damaged"},
		"truncated zstd":           {cut(standard.Bytes()), zstdLayer, right, "damaged"},
		"truncated archive":        {plain[:3000], tarLayer, digest.FromBytes(plain[:3000]), "damaged"},
		"garbage after gzip":       {append(bytes.Clone(zipped.Bytes()), "garbage garbage"...), gzipLayer, right, "damaged"},
		"garbage after zstd":       {append(bytes.Clone(standard.Bytes()), "garbage garbage"...), zstdLayer, right, "damaged"},
		"garbage after the end":    {followed, tarLayer, digest.FromBytes(followed), "bytes follow"},
		"not an archive":           {[]byte(strings.Repeat("x", 2000)), tarLayer, digest.FromString(strings.Repeat("x", 2000)), "damaged"},
		"gzip called uncompressed": {zipped.Bytes(), tarLayer, digest.FromBytes(zipped.Bytes()), "damaged"},
	} {
		t.Run(name, func(t *testing.T) {
			c := open(t)
			layer := putBlob(t, c, test.blob, test.mediaType, test.diffID)
			for range 2 {
				_, err := trees.Plan(t.Context(), c, []trees.Layer{layer})
				var hostile *trees.HostileError
				if !errors.As(err, &hostile) || hostile.Layer != layer.Digest || !strings.Contains(err.Error(), test.says) {
					t.Errorf("got %v, want a refusal of %s that says %q", err, layer.Digest, test.says)
				}
				if verifyErr := trees.Verify(t.Context(), c, []trees.Layer{layer}); !errors.As(verifyErr, &hostile) {
					t.Errorf("a packed image is not refused: %v", verifyErr)
				}
			}
		})
	}
	t.Run("wrong size", func(t *testing.T) {
		c := open(t)
		layer := putBlob(t, c, zipped.Bytes(), gzipLayer, right)
		layer.Size++
		_, err := trees.Plan(t.Context(), c, []trees.Layer{layer})
		if hostile := (*trees.HostileError)(nil); !errors.As(err, &hostile) {
			t.Errorf("got %v, want a refusal", err)
		}
	})
	t.Run("too many layers", func(t *testing.T) {
		c := open(t)
		layer := putBlob(t, c, zipped.Bytes(), gzipLayer, right)
		layers := make([]trees.Layer, trees.MaxLayers+1)
		for i := range layers {
			layers[i] = layer
		}
		_, err := trees.Plan(t.Context(), c, layers)
		if hostile := (*trees.HostileError)(nil); !errors.As(err, &hostile) {
			t.Errorf("got %v, want a refusal", err)
		}
		if _, err := trees.Plan(t.Context(), c, layers[1:]); err != nil {
			t.Errorf("one less: %v", err)
		}
	})
}

// TestMissingBlob is about the machine, not the image.
func TestMissingBlob(t *testing.T) {
	c := open(t)
	layer := put(t, c, archive(t, file("f", "1")))
	if err := os.Remove(c.Path(layer.Digest)); err != nil {
		t.Fatal(err)
	}
	_, err := trees.Plan(t.Context(), c, []trees.Layer{layer})
	var hostile *trees.HostileError
	var unfit *trees.UnfitError
	if !errors.Is(err, os.ErrNotExist) || errors.As(err, &hostile) || errors.As(err, &unfit) {
		t.Errorf("got %v", err)
	}
}

// TestUnfit is about images that are sound, or broken so that only their own containers suffer.
func TestUnfit(t *testing.T) {
	for name, test := range map[string]struct {
		layers [][]item
		says   string
	}{
		"attributes of overlayfs in user namespaces":  {[][]item{{dir("d").xattr("user.overlay.opaque", "y")}}, "user.overlay.opaque"},
		"access control list":                         {[][]item{{dir("d").xattr("system.posix_acl_default", "x")}}, "system.posix_acl_default"},
		"attribute of a security module":              {[][]item{{file("f", "").xattr("security.selinux", "x")}}, "security.selinux"},
		"capabilities that are none":                  {[][]item{{file("f", "").xattr("security.capability", "x")}}, "not valid"},
		"capabilities of a link":                      {[][]item{{symlink("s", "x"), link("t", "s").xattr("security.capability", capability)}}, "regular file"},
		"large attribute":                             {[][]item{{file("f", "").xattr("user.x", strings.Repeat("x", 4000))}}, "more extended attributes"},
		"long part of a name":                         {[][]item{{file(strings.Repeat("n", 256), "")}}, "longer than Linux takes"},
		"long name":                                   {[][]item{{file(strings.Repeat("directory/", 400)+"f", "")}}, "too long"},
		"name beyond every limit":                     {[][]item{{file(strings.Repeat("directory/", 4000)+"f", "")}}, "longer than Linux takes"},
		"long link target":                            {[][]item{{symlink("s", strings.Repeat("x", 5000))}}, "longer than Linux takes"},
		"hard link to nothing":                        {[][]item{{link("a", "b")}}, "no such file"},
		"hard link to itself":                         {[][]item{{file("a", ""), link("a", "a")}}, "no such file"},
		"hard link to a directory":                    {[][]item{{dir("a"), link("b", "a")}}, "directory"},
		"hard link to a directory below":              {[][]item{{dir("a")}, {link("b", "a")}}, "directory"},
		"hard link to itself below":                   {[][]item{{file("a", "")}, {link("a", "a")}}, "exists"},
		"entry below a file":                          {[][]item{{file("a", ""), file("a/b", "")}}, "not a directory"},
		"entry below a file of a lower layer":         {[][]item{{file("a", "")}, {file("a/b/c", "")}}, "not a directory"},
		"links in a circle":                           {[][]item{{symlink("a", "b"), symlink("b", "a"), file("a/f", "")}}, "symbolic links"},
		"whiteout of what the layer has":              {[][]item{{}, {file("a", ""), whiteout(".wh.a")}}, "exists"},
		"device number out of range":                  {[][]item{{device(tar.TypeChar, "c", 1<<33, 0).with(func(h *tar.Header) { h.Format, h.PAXRecords, h.ModTime = tar.FormatGNU, nil, time.Unix(5, 0) })}}, "device"},
		"file in a folder that AUFS would have made":  {[][]item{{}, {file(".wh..wh.plnk/5.6", "")}}, "whiteout"},
		"GNU sparse file, which containerd refuses":   {nil, "type"},
		"type of a tar that nobody writes any longer": {[][]item{{file("f", "").with(func(h *tar.Header) { h.Typeflag = tar.TypeCont })}}, "type"},
	} {
		t.Run(name, func(t *testing.T) {
			c := open(t)
			var layers []trees.Layer
			for _, items := range test.layers {
				layers = append(layers, put(t, c, archive(t, items...)))
			}
			if test.layers == nil {
				layers = append(layers, put(t, c, sparse(t, 1<<20, "--format=gnu")))
			}
			for range 2 {
				_, err := trees.Plan(t.Context(), c, layers)
				var unfit *trees.UnfitError
				if !errors.As(err, &unfit) || !strings.Contains(unfit.Reason, test.says) || !strings.Contains(unfit.Reason, "layer sha256:") {
					t.Errorf("got %v, want that it stays packed because of %q in a layer", err, test.says)
				}
			}
			if err := trees.Verify(t.Context(), c, layers); err != nil {
				t.Errorf("as a packed image: %v", err)
			}
		})
	}
	t.Run("encrypted layer", func(t *testing.T) {
		c := open(t)
		layer := putBlob(t, c, []byte("secret"), gzipLayer+"+encrypted", digest.FromString("x"))
		_, err := trees.Plan(t.Context(), c, []trees.Layer{layer})
		if unfit := (*trees.UnfitError)(nil); !errors.As(err, &unfit) {
			t.Errorf("got %v", err)
		}
	})
}
