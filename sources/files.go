package sources

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/nodeimg/nodeimg/internal/cache"
	"github.com/nodeimg/nodeimg/recipes"
)

// at adds where the recipe's field stands to an error. Bad input stays bad input.
func (r *resolution) at(field string, err error) error {
	if err == nil {
		return nil
	}
	var input *recipes.InputError
	if errors.As(err, &input) {
		if slices.ContainsFunc(input.Problems, func(p recipes.Problem) bool { return p.File != "" }) {
			return err
		}
		return recipes.NewInputError(r.document.Problem(field, "%v", err))
	}
	line, column := r.document.Position(field)
	return fmt.Errorf("%s:%d:%d: %s: %w", r.document.File, line, column, field, err)
}

// lockFiles puts the recipe's own files and CA certificates into the cache.
func lockFiles(document *recipes.Document, c *cache.Cache) ([]recipes.LockedFile, error) {
	var locked []recipes.LockedFile
	for i, file := range document.Recipe.Spec.Files {
		more, err := lockTree(c, document.HostPath(file.Source), file)
		if err != nil {
			return nil, recipes.NewInputError(document.Problem(fmt.Sprintf("spec.files[%d].source", i), "%v", err))
		}
		locked = append(locked, more...)
	}
	for i, name := range document.Recipe.Spec.CACertificates {
		base := strings.TrimSuffix(path.Base(filepath.ToSlash(name)), path.Ext(name)) + ".crt"
		file := recipes.File{Source: name, Target: path.Join(recipes.CertificatesPath, base), Mode: "0644"}
		more, err := lockTree(c, document.HostPath(name), file)
		if err != nil {
			return nil, recipes.NewInputError(document.Problem(fmt.Sprintf("spec.caCertificates[%d]", i), "%v", err))
		}
		locked = append(locked, more...)
	}
	slices.SortFunc(locked, func(a, b recipes.LockedFile) int { return cmp.Compare(a.Target, b.Target) })
	return locked, nil
}

// lockTree puts one file, or every file and link of a directory, into the cache.
func lockTree(c *cache.Cache, host string, file recipes.File) ([]recipes.LockedFile, error) {
	var locked []recipes.LockedFile
	// A link that the recipe itself names stands for what it points to; links inside a directory stay links.
	host, err := filepath.EvalSymlinks(host)
	if err != nil {
		return nil, fmt.Errorf("reading: %w", err)
	}
	err = filepath.WalkDir(host, func(name string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		relative, err := filepath.Rel(host, name)
		if err != nil {
			return err
		}
		one := recipes.LockedFile{Target: path.Join(file.Target, filepath.ToSlash(relative)), Mode: file.Mode}
		info, err := entry.Info()
		if err != nil {
			return err
		}
		switch {
		case info.Mode().Type() == fs.ModeSymlink:
			one.Mode = ""
			if one.Link, err = os.Readlink(name); err != nil {
				return err
			}
		case info.Mode().IsRegular():
			if one.Mode == "" {
				one.Mode = fmt.Sprintf("%04o", info.Mode().Perm())
			}
			f, err := os.Open(name)
			if err != nil {
				return err
			}
			defer f.Close()
			d, size, err := c.Put(f, "")
			if err != nil {
				return err
			}
			one.Digest, one.Size = d.String(), size
		default:
			return fmt.Errorf("%s is neither a file, a directory nor a symbolic link", name)
		}
		locked = append(locked, one)
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("reading: %w", err)
	}
	return locked, nil
}
