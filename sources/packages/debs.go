package packages

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/opencontainers/go-digest"

	"github.com/nodeimg/nodeimg/internal/cache"
	"github.com/nodeimg/nodeimg/recipes"
)

// writeRepository makes a flat apt repository of the cached packages in dir and returns the names of the essential ones.
func writeRepository(ctx context.Context, c *cache.Cache, dir string, packages []recipes.LockedPackage) (essential map[string]bool, err error) {
	var index strings.Builder
	essential = map[string]bool{}
	for _, p := range packages {
		d := digest.Digest(p.Digest)
		if !c.Has(d) {
			return nil, fmt.Errorf("package %s %s: %s is not in the cache; fetch it first", p.Name, p.Version, d)
		}
		// A hard link costs nothing; across file systems a symbolic one does, as apt's copy method follows it.
		name := filepath.Join(dir, d.Encoded()+".deb")
		if err := os.Link(c.Path(d), name); err != nil {
			if err := os.Symlink(c.Path(d), name); err != nil {
				return nil, err
			}
		}
		control, err := debControl(ctx, name)
		if err != nil {
			return nil, fmt.Errorf("package %s %s: %w", p.Name, p.Version, err)
		}
		fields := stanzas(control)
		if len(fields) != 1 || fields[0]["package"] != p.Name || fields[0]["version"] != p.Version {
			return nil, fmt.Errorf("package %s %s: the file %s is another package; resolve again", p.Name, p.Version, d)
		}
		essential[p.Name] = fields[0]["essential"] == "yes"
		index.Write(bytes.TrimSpace(control))
		index.WriteString("\nFilename: ./" + filepath.Base(name) + "\nSize: " + strconv.FormatInt(p.Size, 10) + "\nSHA256: " + d.Encoded() + "\n\n")
	}
	return essential, os.WriteFile(filepath.Join(dir, "Packages"), []byte(index.String()), 0o644)
}

// debControl returns the control stanza of a package file.
func debControl(ctx context.Context, name string) ([]byte, error) {
	var stderr bytes.Buffer
	cmd := command(ctx, "dpkg-deb", "--field", name)
	cmd.Stderr = &stderr
	output, err := cmd.Output()
	if err != nil {
		return nil, commandError("dpkg-deb", err, stderr.Bytes())
	}
	return output, nil
}
