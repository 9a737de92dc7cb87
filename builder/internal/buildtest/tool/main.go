// Command tool is the one program in the root file system that the builder's tests build on. It is its own shell: called as sh -c it
// splits the line at spaces.
package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
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
	default:
		return fmt.Errorf("unknown command %q", args)
	}
	return nil
}
