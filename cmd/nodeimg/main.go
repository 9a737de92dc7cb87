// Command nodeimg builds Kubernetes node images from recipes. Every command only binds flags and arguments, calls a library and prints
// the result: results go to stdout, progress and errors to stderr. The exit status is 0 for success, 2 for bad input and 1 for
// everything else that fails.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"github.com/nodeimg/nodeimg/builder/child"
)

func main() {
	// nodeimg is also the init of its own buildkitd, and the OCI runtime that this calls; then this does not return.
	child.Init()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	// The first signal ends the work in an orderly way. From then on signals are no longer caught, so a second one kills.
	context.AfterFunc(ctx, stop)
	os.Exit(run(ctx, os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
}
