package fetch

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"

	"github.com/opencontainers/go-digest"

	"github.com/nodeimg/nodeimg/internal/cache"
	"github.com/nodeimg/nodeimg/internal/progress"
)

const (
	// largestBlob bounds a download whose size is not known, in bytes.
	largestBlob = 16 << 30
	// cutsInARow is how many broken connections in a row, each with little progress, end a download.
	cutsInARow = 5
	// goodProgress is how many bytes between two cuts make the count of cuts start again.
	goodProgress = 1 << 20
)

// errMismatch says that all bytes arrived and are wrong; it wraps a *cache.DigestError.
var errMismatch = errors.New("wrong bytes")

// Blob makes sure that the blob with sha256 digest d lies in the cache, downloading it from rawURL if need be. Size is its size in
// bytes, or 0 when that is not known. An interrupted download is resumed, also one that an earlier process left. The error wraps a
// *StatusError when the server refused and a *cache.DigestError when it sent other bytes; nothing of those is kept.
func (c *Client) Blob(ctx context.Context, rawURL string, d digest.Digest, size int64) error {
	if err := d.Validate(); err != nil || d.Algorithm() != digest.SHA256 {
		return fmt.Errorf("fetching %s: its digest %q is not a sha256 digest", Redact(rawURL), d)
	}
	if c.Cache.Has(d) {
		return nil
	}
	target, err := c.Rewrite(rawURL)
	if err != nil {
		return err
	}
	unlock, err := c.Cache.Lock(ctx, "fetch-"+d.Encoded())
	if err != nil {
		return fmt.Errorf("fetching %s: %w", Redact(target), err)
	}
	defer unlock()
	if c.Cache.Has(d) {
		return nil
	}
	step, done := startStep(ctx, target, size)
	b := blob{client: c, target: target, digest: d, size: size, step: step}
	if err := b.download(ctx); err != nil {
		return done(fmt.Errorf("fetching %w", err))
	}
	return done(nil)
}

// blob is one download.
type blob struct {
	client *Client
	target string
	digest digest.Digest
	size   int64
	step   *progress.Step
	file   *os.File
}

// download fills the partial file, verifies it and moves it into place. Errors begin with the URL.
func (b *blob) download(ctx context.Context) (err error) {
	partial := b.client.Cache.PartialPath(b.digest)
	if b.file, err = os.OpenFile(partial, os.O_RDWR|os.O_CREATE, 0o644); err != nil {
		return b.fail(err)
	}
	defer b.file.Close()
	inherited, err := b.file.Seek(0, io.SeekEnd)
	if err != nil {
		return b.fail(err)
	}
	if b.size > 0 && inherited > b.size {
		inherited = 0
	}
	b.step.Add(inherited)
	err = b.fill(ctx, inherited)
	if errors.Is(err, errMismatch) && inherited > 0 {
		// What an earlier process left may be what is wrong.
		b.step.Log("%s: the resumed download has a wrong digest; starting again", Redact(b.target))
		b.step.Add(-inherited)
		err = b.fill(ctx, 0)
	}
	if err != nil {
		var status *StatusError
		if errors.Is(err, errMismatch) || errors.As(err, &status) && status.Code < 500 && status.Code != http.StatusTooManyRequests {
			_ = os.Remove(partial)
		}
		return err
	}
	if err := b.file.Chmod(0o644); err != nil {
		return b.fail(err)
	}
	if err := b.file.Sync(); err != nil {
		return b.fail(err)
	}
	if err := os.Rename(partial, b.client.Cache.Path(b.digest)); err != nil {
		return b.fail(err)
	}
	return nil
}

func (b *blob) fail(err error) error { return fmt.Errorf("%s: %w", Redact(b.target), err) }

// fill completes the partial file from offset on and verifies the whole.
func (b *blob) fill(ctx context.Context, offset int64) error {
	furthest := offset
	for cuts := 0; b.size == 0 || offset < b.size; {
		next, err := b.resume(ctx, offset)
		if err == nil {
			offset = next
			break
		}
		var cut *cutError
		if !errors.As(err, &cut) {
			return err
		}
		// Counted from the furthest point ever reached, so that a server that starts again and again does not hold us for ever.
		if next-furthest >= goodProgress {
			cuts, furthest = 0, next
		}
		if cuts++; cuts >= cutsInARow {
			return fmt.Errorf("%w; gave up after %d tries, run again to resume", err, cuts)
		}
		offset = next
		b.step.Log("%s: %v; resuming at byte %d", Redact(b.target), cut, offset)
		if err := Wait(ctx, b.client.retryWait()<<(cuts-1)); err != nil {
			return b.fail(err)
		}
	}
	return b.verify(offset)
}

// cutError says that a transfer broke off and is worth resuming.
type cutError struct{ cause error }

func (e *cutError) Error() string { return fmt.Sprintf("the transfer broke off: %v", e.cause) }
func (e *cutError) Unwrap() error { return e.cause }

// resume makes one request and returns up to where the partial file is good afterwards.
func (b *blob) resume(ctx context.Context, offset int64) (int64, error) {
	response, err := b.client.get(ctx, b.target, offset)
	if err != nil {
		return offset, err
	}
	defer response.Body.Close()
	switch response.StatusCode {
	case http.StatusOK:
		b.step.Add(-offset)
		offset = 0
	case http.StatusPartialContent:
		var from int64
		if _, err := fmt.Sscanf(response.Header.Get("Content-Range"), "bytes %d-", &from); err != nil || from != offset {
			b.step.Add(-offset)
			return 0, b.fail(&cutError{fmt.Errorf("the server answered with another range, %q", response.Header.Get("Content-Range"))})
		}
	case http.StatusRequestedRangeNotSatisfiable:
		if offset > 0 {
			b.step.Add(-offset)
			return 0, b.fail(&cutError{errors.New("the server refuses to resume")})
		}
		return 0, statusError(b.target, response)
	default:
		return offset, statusError(b.target, response)
	}
	limit := int64(largestBlob)
	if b.size > 0 {
		limit = b.size
	}
	if err := b.file.Truncate(offset); err != nil {
		return offset, b.fail(err)
	}
	if _, err := b.file.Seek(offset, io.SeekStart); err != nil {
		return offset, b.fail(err)
	}
	n, err := io.Copy(b.file, b.step.Reader(io.LimitReader(response.Body, limit-offset+1)))
	offset += n
	var writing *fs.PathError
	switch {
	case errors.As(err, &writing):
		return offset, b.fail(fmt.Errorf("storing in the cache: %w", err))
	case err != nil && ctx.Err() != nil:
		return offset, b.fail(plain(ctx, err))
	case err != nil:
		return offset, b.fail(&cutError{err})
	case offset > limit:
		_ = b.file.Truncate(0)
		return 0, b.fail(fmt.Errorf("%w: the server sends more than the %d bytes expected", errMismatch, limit))
	case b.size > 0 && offset < b.size:
		return offset, b.fail(&cutError{fmt.Errorf("%d of %d bytes: %w", offset, b.size, io.ErrUnexpectedEOF)})
	}
	return offset, nil
}

func (b *blob) verify(size int64) error {
	if _, err := b.file.Seek(0, io.SeekStart); err != nil {
		return b.fail(err)
	}
	got, err := digest.SHA256.FromReader(b.file)
	if err != nil {
		return b.fail(err)
	}
	if got != b.digest {
		mismatch := &cache.DigestError{Want: b.digest, Got: got, Size: size}
		return b.fail(fmt.Errorf("%w: %w; nothing was kept; try another mirror, or resolve again if it was republished", errMismatch, mismatch))
	}
	return nil
}
