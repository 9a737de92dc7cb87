// Command dump writes the tree below a folder, one JSON line per path as package tree writes it, into a new file. It does not use standard
// output, because the end of what short containers print there gets lost.
// usage: dump FOLDER FILE
package main

import (
	"bufio"
	"fmt"
	"os"

	"github.com/nodeimg/nodeimg/test/conformance/tree"
)

func main() {
	if len(os.Args) != 3 {
		fmt.Fprintln(os.Stderr, "usage: dump FOLDER FILE")
		os.Exit(2)
	}
	if err := dump(os.Args[1], os.Args[2]); err != nil {
		fmt.Fprintln(os.Stderr, "dump:", err)
		os.Exit(1)
	}
}

func dump(folder, path string) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return err
	}
	defer f.Close()
	out := bufio.NewWriter(f)
	if err := tree.Walk(folder, func(e tree.Entry) error { return e.Write(out) }); err != nil {
		return err
	}
	if err := out.Flush(); err != nil {
		return err
	}
	return f.Close()
}
