// Command cp is the one program of the fixture's flannel-cni-plugin image beside the plugin: "cp -f SOURCE TARGET", which is how
// flannel's manifest installs it. Upstream's image has busybox's.
package main

import (
	"fmt"
	"io"
	"os"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "cp:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	if len(args) != 3 || args[0] != "-f" {
		return fmt.Errorf("usage: cp -f SOURCE TARGET")
	}
	source, err := os.Open(args[1])
	if err != nil {
		return err
	}
	defer source.Close()
	// A program that runs cannot be written to; a new file in its place can.
	if err := os.Remove(args[2]); err != nil && !os.IsNotExist(err) {
		return err
	}
	target, err := os.OpenFile(args[2], os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o755)
	if err != nil {
		return err
	}
	if _, err := io.Copy(target, source); err != nil {
		return err
	}
	return target.Close()
}
