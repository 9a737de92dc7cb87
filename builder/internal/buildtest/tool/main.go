// Command tool is the one program in the root file system that the builder's tests build on. It is its own shell: called as sh -c it
// splits the line at spaces.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

func main() {
	args := os.Args[1:]
	if filepath.Base(os.Args[0]) == "sh" {
		args = strings.Fields(os.Args[2])[1:]
	}
	if err := run(args); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(args []string) error {
	switch args[0] {
	case "get": // SOCKET PATH FILE
		c := http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "unix", args[1])
		}}}
		response, err := c.Get("http://socket" + args[2])
		if err != nil {
			return err
		}
		defer response.Body.Close()
		b, err := io.ReadAll(response.Body)
		if err != nil {
			return err
		}
		return os.WriteFile(args[3], b, 0o644)
	case "interfaces": // FILE
		all, err := net.Interfaces()
		if err != nil {
			return err
		}
		var names []string
		for _, i := range all {
			names = append(names, i.Name)
		}
		return os.WriteFile(args[1], []byte(strings.Join(names, "\n")), 0o644)
	case "fail": // LINES STATUS
		lines, _ := strconv.Atoi(args[1])
		for i := range lines {
			fmt.Println("line", i+1)
		}
		status, _ := strconv.Atoi(args[2])
		os.Exit(status)
	case "sleep": // anything
		time.Sleep(time.Hour)
	case "fill": // FILE MEBIBYTES
		n, _ := strconv.Atoi(args[2])
		return os.WriteFile(args[1], make([]byte, n<<20), 0o644)
	case "copy": // FROM TO
		b, err := os.ReadFile(args[1])
		if err != nil {
			return err
		}
		return os.WriteFile(args[2], b, 0o644)
	case "nasty": // FOLDER
		return nasty(args[1])
	default:
		return fmt.Errorf("unknown command %q", args)
	}
	return nil
}

// nasty makes a folder with what is easily lost: owners, modes, hard links, pipes.
func nasty(dir string) error {
	path := func(name string) string { return filepath.Join(dir, name) }
	if err := os.MkdirAll(path("folder"), 0o755); err != nil {
		return err
	}
	if err := os.WriteFile(path("folder/file"), []byte("content"), 0o600); err != nil {
		return err
	}
	return errors.Join(
		os.Link(path("folder/file"), path("link")),
		os.Symlink("folder/file", path("symlink")),
		os.Chown(path("folder/file"), 1000, 2000),
		os.Chown(path("folder"), 0, 3),
		os.Chmod(path("folder"), 0o2750),
		syscall.Chmod(path("folder/file"), 0o4755),
		syscall.Mkfifo(path("pipe"), 0o640),
	)
}
