// Command dump prints the tree below a folder, one JSON line per path as package tree writes it.
// usage: dump FOLDER
package main

import (
	"bufio"
	"fmt"
	"os"

	"github.com/nodeimg/nodeimg/test/conformance/tree"
)

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: dump FOLDER")
		os.Exit(2)
	}
	out := bufio.NewWriter(os.Stdout)
	err := tree.Walk(os.Args[1], func(e tree.Entry) error { return e.Write(out) })
	if err == nil {
		err = out.Flush()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "dump:", err)
		os.Exit(1)
	}
}
