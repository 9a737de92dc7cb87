package packages

import (
	"context"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"github.com/opencontainers/go-digest"
)

// answerFormat is part of the content key of apt's answers; it changes whenever the same question would be answered otherwise.
const answerFormat = "1"

// revalidation remembers where the package lists of a universe are up to date, so that what is resolved in it more than once stands on the
// same lists and asks the mirrors once.
type revalidation struct {
	mu   sync.Mutex
	dirs map[string]bool
}

// update brings the package lists of a up to date, the first time that it is asked to.
func (r *revalidation) update(ctx context.Context, a apt) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.dirs[a.dir] {
		return nil
	}
	// Without the option apt reads all lists at the end and writes what it has understood, though only a question that it has not answered
	// before needs that.
	if _, err := a.run(ctx, "update", "--error-on=any", "--option=pkgCacheFile::Generate=false"); err != nil {
		return err
	}
	if r.dirs == nil {
		r.dirs = map[string]bool{}
	}
	r.dirs[a.dir] = true
	return nil
}

// answerKey is the key under which the cache knows apt's answer to the arguments: it covers all that the answer depends on. Of the package
// lists that is what the archives have signed, which holds the hashes of all others.
func (a apt) answerKey(u *Universe, arguments []string) (string, error) {
	d := digest.SHA256.Digester()
	fmt.Fprintf(d.Hash(), "%s\n%q\n%s\n", answerFormat, arguments, digest.FromBytes(u.Status))
	for _, name := range slices.Sorted(maps.Keys(u.Files)) {
		fmt.Fprintf(d.Hash(), "%q %s\n", name, digest.FromBytes(u.Files[name]))
	}
	for _, name := range []string{"apt.conf", "nodeimg.sources"} {
		text, err := os.ReadFile(filepath.Join(a.dir, name))
		if err != nil {
			return "", err
		}
		fmt.Fprintf(d.Hash(), "%s %s\n", name, digest.FromBytes(text))
	}
	lists, err := fs.ReadDir(os.DirFS(a.dir), "lists")
	if err != nil {
		return "", err
	}
	for _, list := range lists {
		if !list.Type().IsRegular() {
			continue
		}
		info, err := list.Info()
		if err != nil {
			return "", err
		}
		fmt.Fprintf(d.Hash(), "%q %d\n", list.Name(), info.Size())
		// apt names a list after its URL, and checks each against the Release file that it keeps beside it.
		if strings.HasSuffix(list.Name(), "Release") {
			text, err := os.ReadFile(filepath.Join(a.dir, "lists", list.Name()))
			if err != nil {
				return "", err
			}
			fmt.Fprintln(d.Hash(), digest.FromBytes(text))
		}
	}
	return "apt-" + d.Digest().Encoded(), nil
}
