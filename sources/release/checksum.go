package release

import (
	"context"
	"fmt"
	"strings"

	"github.com/opencontainers/go-digest"

	"github.com/nodeimg/nodeimg/internal/fetch"
)

// largestChecksums is how long a text with checksums may be, in bytes: runc lists all its files and signs the list.
const largestChecksums = 64 << 10

// publishedSum reads the sha256 that the project published for the file.
func publishedSum(ctx context.Context, client *fetch.Client, url, file string) (digest.Digest, error) {
	text, err := client.Text(ctx, url, largestChecksums)
	if err != nil {
		return "", err
	}
	sum, ok := parseSum(text, file)
	if !ok {
		return "", fmt.Errorf("reading %s: it holds no sha256 for %s; is this the right server?", url, file)
	}
	return sum, nil
}

// parseSum finds the file's sha256 in a text that is either the sum alone (dl.k8s.io, cri-tools) or lines as sha256sum writes them
// (containerd, CNI plugins), possibly within an OpenPGP clear signature (runc).
func parseSum(text, file string) (digest.Digest, bool) {
	var alone []digest.Digest
	for line := range strings.Lines(text) {
		fields := strings.Fields(line)
		if len(fields) == 0 || len(fields) > 2 {
			continue
		}
		sum := digest.NewDigestFromEncoded(digest.SHA256, strings.ToLower(fields[0]))
		if sum.Validate() != nil {
			continue
		}
		if len(fields) == 1 {
			alone = append(alone, sum)
			continue
		}
		// An asterisk marks a file that was read as binary.
		if name := strings.TrimPrefix(fields[1], "*"); name[strings.LastIndex(name, "/")+1:] == file {
			return sum, true
		}
	}
	if len(alone) == 1 {
		return alone[0], true
	}
	return "", false
}
