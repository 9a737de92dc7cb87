package shim

import (
	"flag"
	"fmt"
	"io"
	"path/filepath"
	"strings"
)

// command is a command line of runc, as go-runc makes it.
type command struct {
	// global are the flags before the subcommand, without --root and --log, which the shim sets itself.
	global []string
	// log is what --log said.
	log string
	// name is the subcommand; empty when there is none, for instance in "runc --version".
	name string
	// flags are the subcommand's flags, arguments what follows them.
	flags, arguments []string
	// bundle is what run's --bundle said.
	bundle string
}

// valueFlags are the flags that have a value, by subcommand, "" for the global ones; every other flag of runc is a switch.
// See https://github.com/opencontainers/runc/tree/main/man.
var valueFlags = map[string][]string{
	"":       {"log", "log-format", "root", "criu", "rootless"},
	"run":    {"bundle", "b", "console-socket", "pid-file", "pidfd-socket", "preserve-fds"},
	"create": {"bundle", "b", "console-socket", "pid-file", "pidfd-socket", "preserve-fds"},
	"exec": {
		"console-socket", "pidfd-socket", "cwd", "env", "e", "user", "u", "additional-gids", "g", "process", "p", "pid-file", "process-label",
		"apparmor", "cap", "c", "preserve-fds", "cgroup",
	},
	"ps":     {"format", "f"},
	"events": {"interval"},
	"update": {
		"resources", "r", "blkio-weight", "cpu-period", "cpu-quota", "cpu-burst", "cpu-share", "cpu-rt-period", "cpu-rt-runtime",
		"cpuset-cpus", "cpuset-mems", "memory", "memory-reservation", "memory-swap", "pids-limit", "cpu-idle",
	},
}

// switches are the flags without a value that some subcommand has.
var switches = []string{
	"all", "a", "debug", "detach", "d", "force", "f", "help", "h", "ignore-paused", "keep", "no-new-keyring", "no-new-privs", "no-pivot",
	"no-subreaper", "quiet", "q", "stats", "systemd-cgroup", "tty", "t", "version", "v",
}

// parse takes a command line apart.
func parse(args []string) (command, error) {
	var c command
	global, rest, err := split("", args)
	if err != nil {
		return c, err
	}
	for _, f := range global {
		name, value, _ := strings.Cut(strings.TrimLeft(f, "-"), "=")
		switch name {
		case "log":
			c.log = value
		case "root":
		default:
			c.global = append(c.global, f)
		}
	}
	if len(rest) == 0 {
		return c, nil
	}
	c.name = rest[0]
	if c.flags, c.arguments, err = split(c.name, rest[1:]); err != nil {
		return c, err
	}
	for _, f := range c.flags {
		if name, value, _ := strings.Cut(strings.TrimLeft(f, "-"), "="); name == "bundle" || name == "b" {
			c.bundle = value
		}
	}
	return c, nil
}

// split parts the flags at the beginning of args from what follows. Each flag comes back as one argument.
func split(subcommand string, args []string) (flags, rest []string, err error) {
	set := flag.NewFlagSet("runc "+subcommand, flag.ContinueOnError)
	set.SetOutput(io.Discard)
	defined := map[string]bool{}
	for _, name := range valueFlags[subcommand] {
		defined[name] = true
		set.Func(name, "", func(value string) error {
			flags = append(flags, dashes(name)+"="+value)
			return nil
		})
	}
	for _, name := range switches {
		if defined[name] {
			continue
		}
		set.BoolFunc(name, "", func(value string) error {
			flag := dashes(name)
			if value != "true" {
				flag += "=" + value
			}
			flags = append(flags, flag)
			return nil
		})
	}
	if err := set.Parse(args); err != nil {
		return nil, nil, fmt.Errorf("understanding the flags of %q: %w", strings.TrimSpace("runc "+subcommand), err)
	}
	return flags, set.Args(), nil
}

func dashes(name string) string {
	if len(name) == 1 {
		return "-" + name
	}
	return "--" + name
}

// container is the id that the command is about; empty when it is about none.
func (c command) container() (string, error) {
	if c.name == "" || c.name == "list" || c.name == "features" || c.name == "spec" || len(c.arguments) == 0 {
		return "", nil
	}
	id := c.arguments[0]
	// The id becomes the name of a file.
	if id != filepath.Base(id) || id == "." || id == ".." {
		return "", fmt.Errorf("running %s: %q cannot be the id of a container", c.name, id)
	}
	return id, nil
}

// without returns the subcommand's flags without the switch.
func (c command) without(name string) []string {
	var flags []string
	for _, f := range c.flags {
		if f != dashes(name) {
			flags = append(flags, f)
		}
	}
	return flags
}

// line is the command line for a runtime that keeps its state in root and logs to log.
func (c command) line(root, log string, flags []string) []string {
	line := []string{"--root=" + root}
	if log != "" {
		line = append(line, "--log="+log)
	}
	line = append(line, c.global...)
	if c.name == "" {
		return line
	}
	return append(append(append(line, c.name), flags...), c.arguments...)
}
