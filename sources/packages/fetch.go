package packages

import (
	"context"
	"fmt"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sync/errgroup"

	"github.com/nodeimg/nodeimg/internal/fetch"
	"github.com/nodeimg/nodeimg/internal/progress"
	"github.com/nodeimg/nodeimg/recipes"
)

// connections is how many packages are downloaded at once.
const connections = 4

// Fetch makes sure that every package lies in the client's cache under its digest, downloading what is missing.
func Fetch(ctx context.Context, client *fetch.Client, packages []recipes.LockedPackage) error {
	var missing []recipes.LockedPackage
	var total int64
	for _, p := range packages {
		if !client.Cache.Has(digest.Digest(p.Digest)) {
			missing = append(missing, p)
			total += p.Size
		}
	}
	if len(missing) == 0 {
		return nil
	}
	step := progress.Start(ctx, "[fetch] %d packages", len(missing))
	step.Total(total)
	group, inner := errgroup.WithContext(fetch.WithStep(ctx, step))
	group.SetLimit(connections)
	for _, p := range missing {
		group.Go(func() error {
			if err := client.Blob(inner, p.URL, digest.Digest(p.Digest), p.Size); err != nil {
				return fmt.Errorf("package %s %s: %w", p.Name, p.Version, err)
			}
			return nil
		})
	}
	return step.Done(group.Wait())
}
