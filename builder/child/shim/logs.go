package shim

import (
	"fmt"
	"io"
	"os"
	"strings"
)

// A failing step shows twenty lines of its output: sysbox-runc's own message and tailLines of each daemon's log, each at most
// lineBytes long.
const (
	tailLines = 6
	tailBytes = 4 << 10
	lineBytes = 300
)

// tails returns the names of the logs and their last lines, ready to follow a message.
func tails(paths []string) string {
	var b strings.Builder
	for _, path := range paths {
		lines, err := tail(path)
		switch {
		case err != nil:
			fmt.Fprintf(&b, "\nno log of Sysbox: %v", err)
		case len(lines) == 0:
			fmt.Fprintf(&b, "\n%s is empty", path)
		default:
			fmt.Fprintf(&b, "\nthe end of %s:\n%s", path, strings.Join(lines, "\n"))
		}
	}
	return b.String()
}

// tail returns the last lines of a file.
func tail(path string) ([]string, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	size, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return nil, err
	}
	start := max(0, size-tailBytes)
	b, err := io.ReadAll(io.NewSectionReader(f, start, size-start))
	if err != nil {
		return nil, err
	}
	text := strings.TrimSpace(string(b))
	if text == "" {
		return nil, nil
	}
	lines := strings.Split(text, "\n")
	if start > 0 && len(lines) > 1 {
		lines = lines[1:]
	}
	lines = lines[max(0, len(lines)-tailLines):]
	for i, line := range lines {
		if len(line) > lineBytes {
			lines[i] = line[:lineBytes] + "…"
		}
	}
	return lines, nil
}
