package tree

import (
	"fmt"
	"maps"
	"slices"
	"time"
)

// Options say what in two trees need not be equal.
type Options struct {
	// UnpackedFrom and UnpackedUntil leave out modification times of the wanted tree that lie between them: no image gave them, they
	// are when somebody wrote there.
	UnpackedFrom, UnpackedUntil time.Time
}

// Diff returns one line for each difference, sorted by path. Mount points are left out: what they hide cannot be compared. A
// phantom that is wanted may be missing.
func Diff(want, got map[string]Entry, options Options) []string {
	var lines []string
	paths := map[string]bool{}
	for path := range want {
		paths[path] = true
	}
	for path := range got {
		paths[path] = true
	}
	for _, path := range slices.Sorted(maps.Keys(paths)) {
		w, wanted := want[path]
		g, present := got[path]
		switch {
		case w.Mount || g.Mount:
		case !present && w.Type == Phantom:
		case !present:
			lines = append(lines, fmt.Sprintf("%s: missing, want a %s", short(path), w.Type))
		case !wanted:
			lines = append(lines, fmt.Sprintf("%s: a %s that must not be there", short(path), g.Type))
		default:
			lines = append(lines, compare(w, g, options)...)
		}
	}
	return lines
}

func compare(w, g Entry, options Options) []string {
	var lines []string
	differs := func(what string, want, got any) {
		if want != got {
			lines = append(lines, fmt.Sprintf("%s: %s is %s, want %s", short(w.Path), what, short(fmt.Sprint(got)), short(fmt.Sprint(want))))
		}
	}
	differs("type", w.Type, g.Type)
	if w.Type != g.Type {
		return lines
	}
	differs("mode", fmt.Sprintf("%04o", w.Mode), fmt.Sprintf("%04o", g.Mode))
	differs("uid", w.UID, g.UID)
	differs("gid", w.GID, g.GID)
	differs("size", w.Size, g.Size)
	differs("content", w.Digest, g.Digest)
	differs("target", w.Target, g.Target)
	differs("link count", w.Links, g.Links)
	differs("device", w.Device, g.Device)
	names := map[string]bool{}
	for _, xattrs := range []map[string]string{w.Xattrs, g.Xattrs} {
		for name := range xattrs {
			names[name] = true
		}
	}
	for _, name := range slices.Sorted(maps.Keys(names)) {
		value, wanted := w.Xattrs[name]
		other, present := g.Xattrs[name]
		switch {
		case !present:
			lines = append(lines, fmt.Sprintf("%s: xattr %s is missing, want %q", short(w.Path), name, short(value)))
		case !wanted:
			lines = append(lines, fmt.Sprintf("%s: xattr %s must not be there, it is %q", short(w.Path), name, short(other)))
		default:
			differs("xattr "+name, value, other)
		}
	}
	if wanted := w.time(); wanted.Before(options.UnpackedFrom) || wanted.After(options.UnpackedUntil) {
		differs("modification time", wanted.Format(time.RFC3339Nano), g.time().Format(time.RFC3339Nano))
	}
	return lines
}

func (e Entry) time() time.Time { return time.Unix(e.Seconds, e.Nanoseconds).UTC() }

// short keeps texts of several thousand bytes readable.
func short(s string) string {
	const most = 200
	if len(s) <= most {
		return s
	}
	return fmt.Sprintf("%s…%s (%d bytes)", s[:most/2], s[len(s)-most/2:], len(s))
}
