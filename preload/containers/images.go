package containers

import (
	"encoding/base64"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
)

const (
	// imagesFolder holds the images' records; the storage driver's name is the first part (store.go, load).
	imagesFolder = driver + "-images"
	// manifestKey is the key of the manifest of an image, and the beginning of those of manifests with their digests (images.go,
	// ImageDigestManifestBigDataNamePrefix; image/v5/storage/storage_image.go, manifestBigDataKey).
	manifestKey = "manifest"
)

// imageRecord is an image in images.json (images.go, Image).
type imageRecord struct {
	ID             string                   `json:"id"`
	Digest         digest.Digest            `json:"digest"`
	Names          []string                 `json:"names"`
	TopLayer       string                   `json:"layer,omitempty"`
	Metadata       string                   `json:"metadata"`
	BigDataNames   []string                 `json:"big-data-names"`
	BigDataSizes   map[string]int64         `json:"big-data-sizes"`
	BigDataDigests map[string]digest.Digest `json:"big-data-digests"`
	Created        time.Time                `json:"created"`
}

// image is an image with its data.
type image struct {
	record imageRecord
	data   [][]byte
}

// keep adds data under the key, unless there is some.
func (i *image) keep(key string, data []byte) {
	r := &i.record
	if _, there := r.BigDataSizes[key]; there {
		return
	}
	if r.BigDataSizes == nil {
		r.BigDataSizes, r.BigDataDigests = map[string]int64{}, map[string]digest.Digest{}
	}
	r.BigDataNames = append(r.BigDataNames, key)
	r.BigDataSizes[key], r.BigDataDigests[key] = int64(len(data)), digest.FromBytes(data)
	i.data = append(i.data, data)
}

// files are the image's data.
func (i *image) files() []File {
	var files []File
	for n, key := range i.record.BigDataNames {
		files = append(files, File{Path: dataPath(i.record.ID, key), Content: i.data[n]})
	}
	return files
}

// dataName is the name of the file with the data of a key (store.go, makeBigDataBaseName).
func dataName(key string) string {
	if strings.Trim(key, ".0123456789abcdefghijklmnopqrstuvwxyz") == "" {
		return key
	}
	return "=" + base64.StdEncoding.EncodeToString([]byte(key))
}
