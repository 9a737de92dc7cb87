package tree

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
)

// Phantom is the type of a name that a folder lists and that is not there. overlayfs shows whiteouts that way in folders that only one
// layer has.
const Phantom = "phantom"

// Entry is one path of a tree. Texts that need not be UTF-8 are quoted as Go strings.
type Entry struct {
	// Path starts with a slash, which is the tree's root.
	Path string
	// Type is dir, file, symlink, fifo, socket, char, block or Phantom.
	Type string
	// Mode is the permissions with setuid, setgid and sticky.
	Mode uint32
	UID  uint32
	GID  uint32
	// Size in bytes; 0 for directories, whose size is the file system's own affair.
	Size int64 `json:",omitempty"`
	// Digest of a file's content, in hexadecimal.
	Digest string `json:",omitempty"`
	// Target of a symlink.
	Target string `json:",omitempty"`
	// Links is the link count; 0 for directories, which overlayfs does not count.
	Links uint64 `json:",omitempty"`
	// Device is MAJOR:MINOR of a device node.
	Device string `json:",omitempty"`
	// Xattrs are the extended attributes, names and values quoted.
	Xattrs map[string]string `json:",omitempty"`
	// Seconds and Nanoseconds of the modification time.
	Seconds     int64
	Nanoseconds int64 `json:",omitempty"`
	// Mount says that something else is mounted here; what it hides is not in the tree.
	Mount bool `json:",omitempty"`
}

// Write writes an entry as one line.
func (e Entry) Write(w io.Writer) error {
	var line bytes.Buffer
	encoder := json.NewEncoder(&line)
	encoder.SetEscapeHTML(false)
	if err := encoder.Encode(e); err != nil {
		return fmt.Errorf("writing %s: %w", e.Path, err)
	}
	_, err := w.Write(line.Bytes())
	return err
}

// Read reads the lines that Write wrote, by path.
func Read(r io.Reader) (map[string]Entry, error) {
	tree := map[string]Entry{}
	decoder := json.NewDecoder(bufio.NewReader(r))
	decoder.DisallowUnknownFields()
	for {
		var e Entry
		err := decoder.Decode(&e)
		if errors.Is(err, io.EOF) {
			if _, ok := tree["/"]; !ok {
				return nil, errors.New("reading a tree: nothing is there, not even its root")
			}
			return tree, nil
		}
		if err != nil {
			return nil, fmt.Errorf("reading a tree: %w", err)
		}
		if _, twice := tree[e.Path]; twice || e.Path == "" {
			return nil, fmt.Errorf("reading a tree: %q is there twice", e.Path)
		}
		tree[e.Path] = e
	}
}
