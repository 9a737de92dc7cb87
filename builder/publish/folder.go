package publish

import (
	"context"
	"fmt"
	"os"
)

// Folder lets write fill a folder that appears as dir by rename, once it is complete and ctx has not ended. The destination must not
// exist, be empty or be an OCI layout.
func Folder(ctx context.Context, dir string, write func(staging string) error) error {
	if err := checkLayoutDestination(dir); err != nil {
		return err
	}
	s, err := newStaging(dir)
	if err != nil {
		return fmt.Errorf("writing %s: %w", dir, err)
	}
	defer s.remove()
	if err := os.Mkdir(s.path(), 0o755); err != nil {
		return fmt.Errorf("writing %s: %w", dir, err)
	}
	if err := write(s.path()); err != nil {
		return err
	}
	if err := context.Cause(ctx); err != nil {
		return err
	}
	if err := s.commitFolder(); err != nil {
		return fmt.Errorf("writing %s: %w", dir, err)
	}
	return nil
}
