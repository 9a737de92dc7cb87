package trees

import (
	"bytes"
	"compress/gzip"
	"errors"
	"io"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/nodeimg/nodeimg/internal/cache"
)

// TestDecompressionBomb stops at the limit, however far the blob would go on.
func TestDecompressionBomb(t *testing.T) {
	c, err := cache.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	var blob bytes.Buffer
	w := gzip.NewWriter(&blob)
	if _, err := w.Write(make([]byte, 10<<20)); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	d, err := c.PutBytes(blob.Bytes())
	if err != nil {
		t.Fatal(err)
	}
	zeros := digest.FromBytes(make([]byte, 10<<20))
	s, err := openLayer(t.Context(), c, Layer{Digest: d, Size: int64(blob.Len()), MediaType: "application/vnd.oci.image.layer.v1.tar+gzip", DiffID: zeros})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	s.limit = 1 << 20
	_, err = makeIndex(s, io.Discard)
	var hostile *HostileError
	if !errors.As(err, &hostile) || hostile.Layer != d || !strings.Contains(hostile.Reason, "decompressed") {
		t.Errorf("got %v", err)
	}
	if s.read > s.limit+1<<20 {
		t.Errorf("%d bytes were read", s.read)
	}
}

func TestMaxSize(t *testing.T) {
	for blob, want := range map[int64]int64{
		0:       FreeLayerSize,
		1 << 20: FreeLayerSize,
		1 << 30: MaxExpansion << 30,
		1 << 40: MaxLayerSize,
	} {
		if got := maxSize(blob); got != want {
			t.Errorf("a blob of %d bytes may come to %d, want %d", blob, got, want)
		}
	}
}
