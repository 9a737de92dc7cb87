package conformance

import (
	"bytes"
	"compress/gzip"
	"io"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/klauspost/compress/zstd"
)

// format is how a layer's tar is packed.
type format int

const (
	// packedGzip is what nearly all images have.
	packedGzip format = iota
	// packedGzipMembers is several gzip members one after the other, as pigz and estargz write them.
	packedGzipMembers
	packedZstd
	// packedZstdFrames is several zstd frames with a skippable one between, as zstd:chunked has them.
	packedZstdFrames
	packedNot
)

// blob is a layer whose bytes are made here, so that nothing repairs them on the way.
type blob struct {
	tar, packed []byte
	mediaType   types.MediaType
}

// newBlob packs a tar. The media type is that of OCI images unless given.
func newBlob(tar []byte, f format, mediaType types.MediaType) (*blob, error) {
	b := &blob{tar: tar, mediaType: mediaType}
	implied := types.OCILayer
	var out bytes.Buffer
	half := len(tar) / 2
	switch f {
	case packedGzip, packedGzipMembers:
		parts := [][]byte{tar}
		if f == packedGzipMembers {
			parts = [][]byte{tar[:half], nil, tar[half:]}
		}
		for _, part := range parts {
			w := gzip.NewWriter(&out)
			if _, err := w.Write(part); err != nil {
				return nil, err
			}
			if err := w.Close(); err != nil {
				return nil, err
			}
		}
	case packedZstd, packedZstdFrames:
		implied = types.OCILayerZStd
		w, err := zstd.NewWriter(nil)
		if err != nil {
			return nil, err
		}
		if f == packedZstd {
			out.Write(w.EncodeAll(tar, nil))
			break
		}
		out.Write(w.EncodeAll(tar[:half], nil))
		// A skippable frame: magic number, size, content (RFC 8878, 3.1.2).
		out.Write([]byte{0x50, 0x2a, 0x4d, 0x18, 4, 0, 0, 0, 1, 2, 3, 4})
		out.Write(w.EncodeAll(tar[half:], nil))
	case packedNot:
		implied = types.OCIUncompressedLayer
		out.Write(tar)
	}
	b.packed = out.Bytes()
	if b.mediaType == "" {
		b.mediaType = implied
	}
	return b, nil
}

func (b *blob) Digest() (v1.Hash, error) { return hash(b.packed) }

func (b *blob) DiffID() (v1.Hash, error) { return hash(b.tar) }

func (b *blob) Size() (int64, error) { return int64(len(b.packed)), nil }

func (b *blob) MediaType() (types.MediaType, error) { return b.mediaType, nil }

func (b *blob) Compressed() (io.ReadCloser, error) {
	return io.NopCloser(bytes.NewReader(b.packed)), nil
}

func (b *blob) Uncompressed() (io.ReadCloser, error) {
	return io.NopCloser(bytes.NewReader(b.tar)), nil
}

func hash(content []byte) (v1.Hash, error) {
	h, _, err := v1.SHA256(bytes.NewReader(content))
	return h, err
}
