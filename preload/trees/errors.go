package trees

import (
	"errors"
	"fmt"

	"github.com/opencontainers/go-digest"
)

// UnfitError says why an image cannot be unpacked faithfully; it can still be preloaded packed.
type UnfitError struct{ Reason string }

// Error implements error.
func (e *UnfitError) Error() string { return "cannot be unpacked faithfully: " + e.Reason }

// HostileError says that a layer is not what it claims to be, or tries what no honest layer does. The image must be refused as a whole:
// for a command it is bad input.
type HostileError struct {
	// Layer is the digest of the layer's blob; it is empty when the fault is the image's.
	Layer digest.Digest
	// Entry is the name of the entry as the layer has it; it is empty when the fault is the layer's.
	Entry string
	// Reason is what is wrong.
	Reason string
}

// Error implements error.
func (e *HostileError) Error() string {
	text := "refused: " + e.Reason
	if e.Entry != "" {
		text = fmt.Sprintf("entry %q: %s", shorten(e.Entry), text)
	}
	if e.Layer != "" {
		text = fmt.Sprintf("layer %s: %s", e.Layer, text)
	}
	return text
}

// shorten keeps a name that may be a megabyte long readable.
func shorten(name string) string {
	const most = 200
	if len(name) <= most {
		return name
	}
	return fmt.Sprintf("%s… (%d bytes)", name[:most], len(name))
}

// What unpacking fails with, as the kernel would say it.
var (
	errNotExist = errors.New("no such file or directory")
	errNotDir   = errors.New("not a directory")
	errLoop     = errors.New("too many levels of symbolic links")
	errExist    = errors.New("file exists")
	errEscapes  = errors.New("leaves the tree by a symbolic link")
	errTooMuch  = errors.New("more files and links than nodeimg unpacks")
	errWhiteout = errors.New("a whiteout that deletes no file of its folder")
)

// failure is the error for a layer that containerd would fail on at the entry.
func failure(layer digest.Digest, name string, err error) error {
	switch {
	case errors.Is(err, errEscapes), errors.Is(err, errWhiteout):
		return &HostileError{Layer: layer, Entry: name, Reason: err.Error()}
	default:
		return &UnfitError{Reason: fmt.Sprintf("layer %s: entry %q: %v", layer, shorten(name), err)}
	}
}
