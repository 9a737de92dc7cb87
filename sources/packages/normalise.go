package packages

import (
	"archive/tar"
	"fmt"
	"io"
	"path"
	"slices"
	"strings"
	"time"
)

// trimmedFolders hold what no node reads; keptInTrimmed stays for the licences' sake.
var (
	trimmedFolders = []string{"/usr/share/doc", "/usr/share/man", "/usr/share/info", "/usr/share/locale", "/usr/share/lintian", "/usr/share/bug", "/usr/share/linda", "/usr/share/groff"}
	keptInTrimmed  = []string{"/usr/share/doc/*/copyright"}
)

// trimmed says whether a file (slash-separated, without leading slash) is left out.
func trimmed(name string) bool {
	for _, folder := range trimmedFolders {
		if strings.HasPrefix("/"+name, folder+"/") {
			return !(strings.HasPrefix(name, "usr/share/doc/") && path.Base(name) == "copyright" && strings.Count(name, "/") == 4)
		}
	}
	return false
}

// leftOut are files and folders' contents that depend on the host or the hour, or that only a running system needs.
func leftOut(name string) bool {
	switch name {
	case "etc/resolv.conf", "etc/hostname", "var/lib/dbus/machine-id", "var/lib/systemd/random-seed", "var/cache/ldconfig/aux-cache", "etc/.pwd.lock":
		return true
	}
	for _, folder := range []string{"dev/", "proc/", "sys/", "run/", "tmp/", "var/tmp/", "var/log/apt/", "var/lib/apt/lists/", "var/cache/apt/", "var/cache/debconf/"} {
		if strings.HasPrefix(name, folder) && name != "var/cache/apt/archives" {
			return true
		}
	}
	if path.Dir(name) == "var/log" && strings.HasSuffix(name, ".log") || name == "var/log/faillog" || name == "var/log/lastlog" {
		return true
	}
	// dpkg's and debconf's copies of their former state.
	return (strings.HasPrefix(name, "var/lib/dpkg/") || strings.HasPrefix(name, "etc/")) && path.Dir(name) != "var/lib/dpkg/info" &&
		(strings.HasSuffix(name, "-old") || strings.HasSuffix(name, "-") && path.Dir(name) == "etc")
}

// normalise copies a root file system's tar: without what is trimmed or left out, with replaced files, sorted extended attributes, times
// not after epoch, and owners by number only. A hard link whose first name is left out is an error.
func normalise(w io.Writer, r io.Reader, epoch time.Time, replaced map[string][]byte) error {
	in, out := tar.NewReader(r), tar.NewWriter(w)
	dropped := map[string]bool{}
	seen := map[string]bool{}
	for {
		header, err := in.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			return fmt.Errorf("reading the root file system: %w", err)
		}
		name := strings.TrimPrefix(path.Clean("/"+header.Name), "/")
		if name == "" {
			continue
		}
		if trimmed(name) || leftOut(name) {
			dropped[name] = true
			continue
		}
		if header.Typeflag == tar.TypeLink {
			header.Linkname = strings.TrimPrefix(path.Clean("/"+header.Linkname), "/")
			if dropped[header.Linkname] {
				return fmt.Errorf("packing the root file system: %s is a hard link to %s, which is left out", name, header.Linkname)
			}
		}
		content := io.Reader(in)
		if text, ok := replaced[name]; ok {
			header.Typeflag, header.Linkname, header.Size = tar.TypeReg, "", int64(len(text))
			content = strings.NewReader(string(text))
		}
		seen[name] = true
		if err := writeEntry(out, header, name, content, epoch); err != nil {
			return err
		}
	}
	// Where a runtime mounts /dev there must be a folder.
	if !seen["dev"] {
		if err := writeEntry(out, &tar.Header{Typeflag: tar.TypeDir, Mode: 0o755, ModTime: epoch}, "dev", nil, epoch); err != nil {
			return err
		}
	}
	for _, name := range slices.Sorted(func(yield func(string) bool) {
		for name := range replaced {
			if !seen[name] && !yield(name) {
				return
			}
		}
	}) {
		text := replaced[name]
		header := &tar.Header{Typeflag: tar.TypeReg, Mode: 0o644, Size: int64(len(text)), ModTime: epoch}
		if err := writeEntry(out, header, name, strings.NewReader(string(text)), epoch); err != nil {
			return err
		}
	}
	if err := out.Close(); err != nil {
		return fmt.Errorf("packing the root file system: %w", err)
	}
	// The writer of the pipe must be able to end, whatever padding follows.
	_, err := io.Copy(io.Discard, r)
	return err
}

// writeEntry writes one entry in its normal form.
func writeEntry(out *tar.Writer, header *tar.Header, name string, content io.Reader, epoch time.Time) error {
	normal := &tar.Header{
		Typeflag: header.Typeflag, Name: name, Linkname: header.Linkname, Size: header.Size, Mode: header.Mode & 0o7777,
		Uid: header.Uid, Gid: header.Gid, ModTime: header.ModTime.Truncate(time.Second), Devmajor: header.Devmajor, Devminor: header.Devminor, Format: tar.FormatPAX,
	}
	if normal.Typeflag == tar.TypeDir {
		normal.Name += "/"
	}
	if normal.ModTime.After(epoch) {
		normal.ModTime = epoch
	}
	for key, value := range header.PAXRecords {
		if strings.HasPrefix(key, "SCHILY.xattr.") {
			if normal.PAXRecords == nil {
				normal.PAXRecords = map[string]string{}
			}
			normal.PAXRecords[key] = value
		}
	}
	if err := out.WriteHeader(normal); err != nil {
		return fmt.Errorf("packing %s: %w", name, err)
	}
	if normal.Typeflag != tar.TypeReg {
		return nil
	}
	if _, err := io.Copy(out, content); err != nil {
		return fmt.Errorf("packing %s: %w", name, err)
	}
	return nil
}
