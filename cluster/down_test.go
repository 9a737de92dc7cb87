package cluster

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"github.com/nodeimg/nodeimg/recipes"
)

// TestBesides: of what wraps an interruption the command tells nothing else, and what wraps bad input has its exit status.
func TestBesides(t *testing.T) {
	more := errors.New("a container is left")
	interrupted := besides(fmt.Errorf("making a node: %w", context.Canceled), more)
	if errors.Is(interrupted, context.Canceled) || !errors.Is(interrupted, more) || interrupted.Error() != "making a node: context canceled\na container is left" {
		t.Errorf("an interruption: %v", interrupted)
	}
	bad := besides(fmt.Errorf("making a node: %w", recipes.InputErrorf("no such image")), more)
	if input := new(recipes.InputError); !errors.As(bad, &input) || !errors.Is(bad, more) || bad.Error() != "making a node: no such image\na container is left" {
		t.Errorf("bad input: %v", bad)
	}
}
