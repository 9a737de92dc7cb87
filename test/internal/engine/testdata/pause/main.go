// Command pause is the only program of the container that the Engine's test runs. It leaves a child that outlives a plain kill of its
// parent, as shims and services do.
package main

import (
	"os"
	"os/exec"
	"time"
)

func main() {
	if len(os.Args) == 1 {
		if err := exec.Command(os.Args[0], "child").Start(); err != nil {
			os.Exit(1)
		}
	}
	time.Sleep(time.Hour)
}
