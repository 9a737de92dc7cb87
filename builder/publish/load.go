package publish

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/opencontainers/go-digest"

	"github.com/nodeimg/nodeimg/internal/cache"
	"github.com/nodeimg/nodeimg/internal/dockerengine"
	"github.com/nodeimg/nodeimg/internal/progress"
	"github.com/nodeimg/nodeimg/recipes"
)

// Load puts img into the Docker Engine under all the names and returns the id that the Engine gave it. At least one name is needed.
// The error is a *recipes.InputError when a name is not an image reference.
func Load(ctx context.Context, engine *dockerengine.Engine, img v1.Image, names []string) (digest.Digest, error) {
	if len(names) == 0 {
		return "", recipes.InputErrorf("loading into the Docker Engine needs an image name; give one with -t")
	}
	for _, name := range names {
		if _, err := tagged(name); err != nil {
			return "", err
		}
	}
	step := progress.Start(ctx, "[export] %s into the Docker Engine", names[0])
	if err := load(ctx, engine, img, names, step); err != nil {
		return "", step.Done(err)
	}
	id, err := engine.ImageID(ctx, names[0])
	return id, step.Done(err)
}

func load(ctx context.Context, engine *dockerengine.Engine, img v1.Image, names []string, step *progress.Step) error {
	r, w := io.Pipe()
	written := make(chan error, 1)
	go func() {
		err := writeDockerTar(ctx, w, img, names, step)
		w.CloseWithError(err)
		written <- err
	}()
	err := engine.Load(ctx, r, func(line string) { step.Log("%s", line) })
	// An Engine that stopped reading would leave the writer waiting for ever.
	r.CloseWithError(io.ErrClosedPipe)
	writeErr := <-written
	if err != nil {
		return err
	}
	// The Engine may be content before it has read the padding at the archive's end.
	if writeErr != nil && !errors.Is(writeErr, io.ErrClosedPipe) {
		return fmt.Errorf("loading the image into the Docker Engine: %w", writeErr)
	}
	return nil
}

// verifiedCopy copies r to w and fails with a *cache.DigestError when what passed by is not want.
func verifiedCopy(ctx context.Context, w io.Writer, r io.Reader, want v1.Hash, step *progress.Step) error {
	hash := sha256.New()
	n, err := copyAll(ctx, io.MultiWriter(w, hash), r, step.Add)
	if err != nil {
		return err
	}
	if got := hex.EncodeToString(hash.Sum(nil)); got != want.Hex {
		return &cache.DigestError{Want: digest.Digest(want.String()), Got: digest.NewDigestFromEncoded(digest.SHA256, got), Size: n}
	}
	return nil
}
