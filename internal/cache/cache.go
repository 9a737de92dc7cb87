// Package cache is nodeimg's store of bytes below the user's cache directory: blobs by digest, facts by key, and folders and locks
// by name for the packages that keep a state of their own. A blob appears by rename and only after its digest was verified, so a
// process that is killed leaves at most a temporary file that the next Open removes.
package cache

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/gofrs/flock"
	"github.com/google/renameio/v2"
	"github.com/opencontainers/go-digest"
)

// EnvironmentVariable names the variable that moves the cache.
const EnvironmentVariable = "NODEIMG_CACHE"

// lockPoll is how often a contended lock is tried again.
const lockPoll = 100 * time.Millisecond

// Cache is a folder of content-addressed blobs. Its methods are safe for concurrent use, by several processes too.
type Cache struct {
	dir string
}

// Location is where Open has its folder; nothing is created.
func Location(dir string) (string, error) {
	if dir == "" {
		dir = os.Getenv(EnvironmentVariable)
	}
	if dir == "" {
		user, err := os.UserCacheDir()
		if err != nil {
			return "", fmt.Errorf("finding the cache directory: %w; set %s", err, EnvironmentVariable)
		}
		dir = filepath.Join(user, "nodeimg")
	}
	return filepath.Abs(dir)
}

// Open returns the cache in dir, creating it. An empty dir means $NODEIMG_CACHE or else nodeimg below os.UserCacheDir.
func Open(dir string) (*Cache, error) {
	dir, err := Location(dir)
	if err != nil {
		return nil, fmt.Errorf("opening the cache: %w", err)
	}
	for _, sub := range []string{"blobs/sha256", "facts", "locks", "partial"} {
		if err := os.MkdirAll(filepath.Join(dir, sub), 0o755); err != nil {
			return nil, fmt.Errorf("opening the cache: %w", err)
		}
	}
	return &Cache{dir: dir}, nil
}

// Root is the cache's own folder.
func (c *Cache) Root() string { return c.dir }

// Dir returns the named folder in the cache, creating it; its owner is the calling package.
func (c *Cache) Dir(name string) (string, error) {
	dir := filepath.Join(c.dir, name)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", fmt.Errorf("creating cache folder: %w", err)
	}
	return dir, nil
}

// Path is where the blob with digest d lies, or would lie.
func (c *Cache) Path(d digest.Digest) string {
	return filepath.Join(c.dir, "blobs", d.Algorithm().String(), d.Encoded())
}

// PartialPath is where an interrupted download of d is kept so that it can be resumed.
func (c *Cache) PartialPath(d digest.Digest) string {
	return filepath.Join(c.dir, "partial", d.Encoded())
}

// Has reports whether the blob is there.
func (c *Cache) Has(d digest.Digest) bool {
	if d.Validate() != nil {
		return false
	}
	_, err := os.Stat(c.Path(d))
	return err == nil
}

// Size returns the blob's size in bytes; the error wraps fs.ErrNotExist when the blob is missing.
func (c *Cache) Size(d digest.Digest) (int64, error) {
	if err := d.Validate(); err != nil {
		return 0, fmt.Errorf("reading blob %q from the cache: %w", d, err)
	}
	info, err := os.Stat(c.Path(d))
	if err != nil {
		return 0, fmt.Errorf("reading blob from the cache: %w", err)
	}
	return info.Size(), nil
}

// Open opens the blob for reading; the error wraps fs.ErrNotExist when it is missing.
func (c *Cache) Open(d digest.Digest) (*os.File, error) {
	if err := d.Validate(); err != nil {
		return nil, fmt.Errorf("opening blob %q in the cache: %w", d, err)
	}
	f, err := os.Open(c.Path(d))
	if err != nil {
		return nil, fmt.Errorf("opening blob in the cache: %w", err)
	}
	return f, nil
}

// DigestError says that bytes do not have the digest that was promised.
type DigestError struct {
	Want, Got digest.Digest
	Size      int64
}

// Error implements error.
func (e *DigestError) Error() string {
	return fmt.Sprintf("digest mismatch: expected %s, got %s (%d bytes)", e.Want, e.Got, e.Size)
}

// Put stores everything that r yields and returns its digest and size. When want is not empty and the bytes do not have that digest,
// nothing is stored and the error is a *DigestError.
func (c *Cache) Put(r io.Reader, want digest.Digest) (digest.Digest, int64, error) {
	f, err := renameio.NewPendingFile(filepath.Join(c.dir, "blobs", "sha256", "pending"), renameio.WithTempDir(filepath.Join(c.dir, "partial")), renameio.WithPermissions(0o644))
	if err != nil {
		return "", 0, fmt.Errorf("storing in the cache: %w", err)
	}
	defer f.Cleanup()
	digester := digest.SHA256.Digester()
	size, err := io.Copy(io.MultiWriter(f, digester.Hash()), r)
	if err != nil {
		return "", size, fmt.Errorf("storing in the cache: %w", err)
	}
	got := digester.Digest()
	if want != "" && got != want {
		return "", size, &DigestError{Want: want, Got: got, Size: size}
	}
	if err := f.Chmod(0o644); err != nil {
		return "", size, fmt.Errorf("storing in the cache: %w", err)
	}
	if err := f.Close(); err != nil {
		return "", size, fmt.Errorf("storing in the cache: %w", err)
	}
	if err := os.Rename(f.Name(), c.Path(got)); err != nil {
		return "", size, fmt.Errorf("storing in the cache: %w", err)
	}
	return got, size, nil
}

// PutBytes stores b and returns its digest.
func (c *Cache) PutBytes(b []byte) (digest.Digest, error) {
	d := digest.FromBytes(b)
	if c.Has(d) {
		return d, nil
	}
	if err := renameio.WriteFile(c.Path(d), b, 0o644, renameio.WithTempDir(filepath.Join(c.dir, "partial"))); err != nil {
		return "", fmt.Errorf("storing in the cache: %w", err)
	}
	return d, nil
}

// Lock waits until this process alone holds the named lock, or ctx ends. The caller must call unlock.
func (c *Cache) Lock(ctx context.Context, name string) (unlock func(), err error) {
	l := flock.New(filepath.Join(c.dir, "locks", fileName(name)))
	if _, err := l.TryLockContext(ctx, lockPoll); err != nil {
		return nil, fmt.Errorf("waiting for the lock %q in the cache: %w", name, err)
	}
	return func() { _ = l.Close() }, nil
}

// Fact reads the JSON value stored under key into v; ok is false when there is none. A fact is something derived from digests, for
// instance which part digests a compilation with a given content key produced.
func (c *Cache) Fact(key string, v any) (ok bool, err error) {
	b, err := os.ReadFile(filepath.Join(c.dir, "facts", fileName(key)))
	if errors.Is(err, os.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("reading fact from the cache: %w", err)
	}
	if err := json.Unmarshal(b, v); err != nil {
		return false, fmt.Errorf("reading fact %q from the cache: %w", key, err)
	}
	return true, nil
}

// PutFact stores v as JSON under key, replacing what was there.
func (c *Cache) PutFact(key string, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("storing fact %q in the cache: %w", key, err)
	}
	if err := renameio.WriteFile(filepath.Join(c.dir, "facts", fileName(key)), b, 0o644); err != nil {
		return fmt.Errorf("storing fact in the cache: %w", err)
	}
	return nil
}

// fileName keeps short readable keys readable and makes every other one safe as a file name.
func fileName(key string) string {
	if len(key) <= 120 && !strings.ContainsAny(key, "/\\\x00 ") && key != "." && key != ".." && key != "" {
		return key
	}
	return digest.FromString(key).Encoded()
}
