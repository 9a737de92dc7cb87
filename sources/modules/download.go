package modules

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/nodeimg/nodeimg/internal/progress"
)

// moduleFact is what never changes about a version of a module.
type moduleFact struct {
	Path    string    `json:"path"`
	Version string    `json:"version"`
	Sum     string    `json:"sum"`
	Time    time.Time `json:"time"`
	// GoMod is the digest of the module's go.mod, or what stands for it, a blob in the cache.
	GoMod digest.Digest `json:"goMod"`
}

func moduleKey(path, version string) string { return "modules-module-" + path + "@" + version }

// moduleFact finds what an earlier download told about the module.
func (c *compiler) moduleFact(path, version string) (m moduleFact, ok bool, err error) {
	ok, err = c.cache.Fact(moduleKey(path, version), &m)
	return m, ok && c.cache.Has(m.GoMod), err
}

// download lets go download the module, which checks it against the checksum database, and remembers what matters of it.
// field is the recipe's field that chose the version, or empty.
func (c *compiler) download(ctx context.Context, scratch, path, version, field string, step *progress.Step) (moduleFact, error) {
	if m, ok, err := c.moduleFact(path, version); err != nil || ok {
		return m, err
	}
	dir, err := os.MkdirTemp(scratch, "download-")
	if err != nil {
		return moduleFact{}, fmt.Errorf("creating the download folder: %w", err)
	}
	if err := os.WriteFile(filepath.Join(dir, "go.mod"), []byte("module nodeimg.dev/download\n"), 0o644); err != nil {
		return moduleFact{}, fmt.Errorf("writing go.mod: %w", err)
	}
	out, runErr := c.tool.run(ctx, dir, temporaryIn(dir), func(line string) { step.Log("%s", line) }, "mod", "download", "-json", path+"@"+version)
	var got struct {
		Sum, GoMod, Dir, Info, Error string
	}
	if err := json.Unmarshal(out, &got); err == nil && got.Error != "" {
		remedy := "is it a released version?"
		if field != "" {
			remedy = "is it a released version? set " + field + " to one that the Go module proxy serves, or use kubernetes.source release"
		}
		return moduleFact{}, fmt.Errorf("downloading module %s@%s: %s; %s", path, version, strings.TrimSpace(got.Error), remedy)
	}
	if runErr != nil {
		return moduleFact{}, fmt.Errorf("downloading module %s@%s: %w", path, version, runErr)
	}
	if got.Sum == "" || got.GoMod == "" || got.Info == "" {
		return moduleFact{}, fmt.Errorf("downloading module %s@%s: go did not say where it is", path, version)
	}
	m := moduleFact{Path: path, Version: version, Sum: got.Sum}
	mod, err := requirements(version, got.GoMod, got.Dir)
	if err != nil {
		return moduleFact{}, fmt.Errorf("reading the requirements of %s@%s: %w", path, version, err)
	}
	if m.GoMod, err = c.cache.PutBytes(mod); err != nil {
		return moduleFact{}, err
	}
	info, err := os.ReadFile(got.Info)
	if err != nil {
		return moduleFact{}, fmt.Errorf("reading the release date of %s@%s: %w", path, version, err)
	}
	var release struct{ Time time.Time }
	if err := json.Unmarshal(info, &release); err != nil {
		return moduleFact{}, fmt.Errorf("reading the release date of %s@%s: %w", path, version, err)
	}
	m.Time = release.Time
	return m, c.cache.PutFact(moduleKey(path, version), m)
}

// requirements reads the go.mod of a module that was downloaded to dir. A module without one of its own, for which go has made up one that
// requires nothing, may say in vendor.mod what it is built with: Docker's do.
func requirements(version, goMod, dir string) ([]byte, error) {
	if strings.HasSuffix(version, incompatible) {
		b, err := os.ReadFile(filepath.Join(dir, "vendor.mod"))
		if !errors.Is(err, fs.ErrNotExist) {
			return b, err
		}
	}
	return os.ReadFile(goMod)
}
