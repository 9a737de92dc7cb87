// Command look prints what a container sees of its image: a line with mode, owner, size and path for everything below /image.
package main

import (
	"fmt"
	"io/fs"
	"log"
	"path/filepath"
	"syscall"
)

func main() {
	err := filepath.WalkDir("/image", func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := entry.Info()
		if err != nil {
			return err
		}
		size := info.Size()
		if entry.IsDir() {
			size = 0
		}
		stat := info.Sys().(*syscall.Stat_t)
		fmt.Printf("saw %o %d:%d %d %s\n", stat.Mode, stat.Uid, stat.Gid, size, path)
		return nil
	})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println("saw all")
}
