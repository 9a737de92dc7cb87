package archive

import (
	"archive/tar"
	"bytes"
	"fmt"
	"io"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
)

// File is an entry of a tar. The header's size is that of the content, whatever it says.
type File struct {
	Header  tar.Header
	Content []byte
}

// Program is a regular file that everybody may execute.
func Program(name string, content []byte) File {
	return File{tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o755}, content}
}

// Write writes the files to w as a whole tar, in the order given.
func Write(w io.Writer, files ...File) error {
	archive := tar.NewWriter(w)
	for _, f := range files {
		f.Header.Size = int64(len(f.Content))
		if err := archive.WriteHeader(&f.Header); err != nil {
			return fmt.Errorf("packing %s: %w", f.Header.Name, err)
		}
		if _, err := archive.Write(f.Content); err != nil {
			return fmt.Errorf("packing %s: %w", f.Header.Name, err)
		}
	}
	if err := archive.Close(); err != nil {
		return fmt.Errorf("packing: %w", err)
	}
	return nil
}

// Layer makes a gzip layer of the files.
func Layer(files ...File) (v1.Layer, error) {
	var content bytes.Buffer
	if err := Write(&content, files...); err != nil {
		return nil, err
	}
	return tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(content.Bytes())), nil })
}
