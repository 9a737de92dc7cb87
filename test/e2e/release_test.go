package e2e

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/nodeimg/nodeimg/internal/cache"
	"github.com/nodeimg/nodeimg/test/internal/application"
	"github.com/nodeimg/nodeimg/test/internal/upstream"
)

// TestE2EReleaseImage builds the shipped recipe that takes everything from its publishers, whom a fixture on loopback stands in for with
// real programs, on the distribution's image, with a user's image added; and makes a node of it.
func TestE2EReleaseImage(t *testing.T) {
	c, err := cache.Open("")
	if err != nil {
		t.Fatal(err)
	}
	server, _, err := upstream.StartCompiled(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(server.Close)
	if err := server.Push(t.Context(), appReference, application.For(t)); err != nil {
		t.Fatal(err)
	}
	// The other end-to-end tests take engine direct, the default.
	spec := fmt.Sprintf("  preload:\n    engine: inner\n    images: [%q]\n  mirrors:\n", appReference)
	mirrors := server.Mirrors()
	for _, host := range slices.Sorted(maps.Keys(mirrors)) {
		spec += fmt.Sprintf("    %s: %q\n", host, mirrors[host])
	}
	recipe := writeRecipe(t, "k8s-node.yaml", spec)
	docker, host := startEngine(t)
	reference := "nodeimg-e2e/release:" + suffix()
	before := len(server.Requests())
	nodeimg(t.Context(), t, []string{"DOCKER_HOST=" + host}, "build", recipe, "-o", "type=docker", "-t", reference)
	t.Cleanup(func() { _ = docker.RemoveImage(context.WithoutCancel(t.Context()), reference) })
	for _, request := range server.Requests()[before:] {
		if method, _, _ := strings.Cut(request, " "); method != "GET" && method != "HEAD" {
			t.Errorf("building wrote to a publisher: %s", request)
		}
	}
	n := start(t, docker, reference, internalNetwork(t, docker))
	becomesReady(t, n, func() error { return n.Restart(t.Context()) })
}
