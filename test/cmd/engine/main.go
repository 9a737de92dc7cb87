// Command engine starts and stops the Docker Engine of the end-to-end tests: make engine and make engine-stop call it. serve and init
// are for the package engine.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/nodeimg/nodeimg/test/internal/engine"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "engine:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	if len(args) == 0 {
		return fmt.Errorf("usage: engine start|stop")
	}
	if args[0] == "init" {
		var options engine.InitOptions
		flags := flag.NewFlagSet("init", flag.ContinueOnError)
		flags.StringVar(&options.Dir, "dir", "", "state folder")
		flags.StringVar(&options.Programs, "programs", "", "folder of the programs")
		flags.StringVar((*string)(&options.Network), "network", "", "own or host")
		flags.StringVar(&options.ContainerdRoot, "containerd-root", "", "root folder of containerd")
		if err := flags.Parse(args[1:]); err != nil {
			return err
		}
		options.Flags = flags.Args()
		return engine.Init(options)
	}
	ctx, cancel := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP)
	defer cancel()
	switch args[0] {
	case "start":
		host, err := engine.StartDetached(ctx)
		if err != nil {
			return err
		}
		fmt.Println("export DOCKER_HOST=" + host)
		return nil
	case "stop":
		return engine.StopDetached(ctx)
	case "serve":
		var options engine.ServeOptions
		flags := flag.NewFlagSet("serve", flag.ContinueOnError)
		flags.StringVar(&options.ID, "id", "", "name of the Engine")
		flags.StringVar(&options.Programs, "programs", "", "folder of the programs")
		flags.StringVar((*string)(&options.Network), "network", "", "own or host")
		flags.StringVar(&options.ContainerdRoot, "containerd-root", "", "root folder of containerd")
		lifeline := flags.Bool("lifeline", false, "end when standard input ends")
		if err := flags.Parse(args[1:]); err != nil {
			return err
		}
		if *lifeline {
			options.Lifeline = os.Stdin
		}
		options.Flags = flags.Args()
		return engine.Serve(ctx, options)
	default:
		return fmt.Errorf("unknown command %q; usage: engine start|stop", args[0])
	}
}
