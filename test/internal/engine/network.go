package engine

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"github.com/gofrs/flock"

	"github.com/nodeimg/nodeimg/test/internal/tools"
)

// An Engine in the host's network namespace changes what these hold.
var (
	rulePrograms = []string{"iptables", "ip6tables"}
	settings     = []string{
		"/proc/sys/net/ipv4/ip_forward",
		"/proc/sys/net/ipv6/conf/all/forwarding",
		"/proc/sys/net/ipv6/conf/default/forwarding",
		"/proc/sys/net/bridge/bridge-nf-call-iptables",
		"/proc/sys/net/bridge/bridge-nf-call-ip6tables",
	}
)

// namespaceName is the file that says which network namespace the notes of an Engine are about.
const namespaceName = "network"

// lockNetwork lets one Engine at a time note or restore the host's network.
func lockNetwork(dir string) (unlock func(), err error) {
	return tools.Lock(context.Background(), filepath.Join(filepath.Dir(dir), ".network"))
}

// neighbours are the folders of other Engines that run in the network namespace. All of them use the same chains.
func neighbours(dir, namespace string) []string {
	notes, _ := filepath.Glob(filepath.Join(filepath.Dir(dir), "*", namespaceName))
	return slices.DeleteFunc(notes, func(note string) bool {
		theirs := filepath.Dir(note)
		if about, err := os.ReadFile(note); err != nil || string(about) != namespace || theirs == dir {
			return true
		}
		lock := flock.New(theirs + ".lock")
		defer lock.Close()
		free, err := lock.TryLock()
		return free || err != nil
	})
}

// saveNetwork notes the host's packet filter rules and forwarding settings in dir: those before the first of the Engines that run in the
// network namespace, for the last one that ends.
func saveNetwork(dir string) error {
	unlock, err := lockNetwork(dir)
	if err != nil {
		return err
	}
	defer unlock()
	namespace, err := os.Readlink("/proc/self/ns/net")
	if err != nil {
		return fmt.Errorf("finding the own network namespace: %w", err)
	}
	if others := neighbours(dir, namespace); len(others) > 0 {
		err = copyNotes(filepath.Dir(others[0]), dir)
	} else {
		err = noteNetwork(dir)
	}
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, namespaceName), []byte(namespace), 0o600)
}

// copyNotes takes over what another Engine has noted.
func copyNotes(from, to string) error {
	var names []string
	for _, program := range rulePrograms {
		names = append(names, program+".before")
	}
	for _, setting := range settings {
		names = append(names, settingName(setting))
	}
	for _, name := range names {
		text, err := os.ReadFile(filepath.Join(from, name))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err == nil {
			err = os.WriteFile(filepath.Join(to, name), text, 0o600)
		}
		if err != nil {
			return fmt.Errorf("taking over what another Engine has noted of the network: %w", err)
		}
	}
	return nil
}

func noteNetwork(dir string) error {
	for _, program := range rulePrograms {
		rules, err := exec.Command(program + "-save").Output()
		if err != nil {
			return fmt.Errorf("reading the host's packet filter rules with %s-save: %w", program, err)
		}
		if err := os.WriteFile(filepath.Join(dir, program+".before"), rules, 0o600); err != nil {
			return fmt.Errorf("noting the host's packet filter rules: %w", err)
		}
	}
	for _, setting := range settings {
		value, err := os.ReadFile(setting)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err == nil {
			err = os.WriteFile(filepath.Join(dir, settingName(setting)), value, 0o600)
		}
		if err != nil {
			return fmt.Errorf("noting the host's forwarding settings: %w", err)
		}
	}
	return nil
}

// restoreNetwork undoes what the Engine changed since saveNetwork: its rules and chains go, settings get their old value. Rules that
// others made meanwhile stay. Without notes in dir there is nothing to do, and while other Engines need the rules nothing yet.
func restoreNetwork(dir string) error {
	namespace, err := os.ReadFile(filepath.Join(dir, namespaceName))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("restoring the host's network: %w", err)
	}
	if own, err := os.Readlink("/proc/self/ns/net"); err != nil || own != string(namespace) {
		// It was another's, of which these notes say nothing.
		return err
	}
	unlock, err := lockNetwork(dir)
	if err != nil {
		return err
	}
	defer unlock()
	if len(neighbours(dir, string(namespace))) > 0 {
		// Nobody shall take over notes of an Engine that is gone.
		return os.Remove(filepath.Join(dir, namespaceName))
	}
	var errs []error
	for _, program := range rulePrograms {
		before, err := os.ReadFile(filepath.Join(dir, program+".before"))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err == nil {
			err = removeRules(program, string(before))
		}
		errs = append(errs, err)
	}
	for _, setting := range settings {
		value, err := os.ReadFile(filepath.Join(dir, settingName(setting)))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err == nil {
			err = os.WriteFile(setting, value, 0o644)
		}
		errs = append(errs, err)
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("restoring the host's network: %w", err)
	}
	return nil
}

// removeRules removes dockerd's chains, all of which begin with DOCKER, and the rules that lead to them.
func removeRules(program, before string) error {
	after, err := exec.Command(program + "-save").Output()
	if err != nil {
		return fmt.Errorf("%s-save: %w", program, err)
	}
	old := map[string]bool{}
	for _, line := range tableLines(before) {
		old[line.key()] = true
	}
	var flushes, deletes, removes [][]string
	for _, line := range tableLines(string(after)) {
		if old[line.key()] || !strings.Contains(line.text, "DOCKER") {
			continue
		}
		switch {
		case strings.HasPrefix(line.text, ":"):
			chain, _, _ := strings.Cut(line.text[1:], " ")
			flushes = append(flushes, []string{"-t", line.table, "-F", chain})
			removes = append(removes, []string{"-t", line.table, "-X", chain})
		case strings.HasPrefix(line.text, "-A ") && !strings.HasPrefix(line.text, "-A DOCKER"):
			deletes = append(deletes, append([]string{"-t", line.table, "-D"}, strings.Fields(line.text)[1:]...))
		}
	}
	var errs []error
	for _, args := range slices.Concat(deletes, flushes, removes) {
		if out, err := exec.Command(program, append([]string{"-w"}, args...)...).CombinedOutput(); err != nil {
			errs = append(errs, fmt.Errorf("%s %s: %w: %s", program, strings.Join(args, " "), err, strings.TrimSpace(string(out))))
		}
	}
	return errors.Join(append(errs, removeTables(program, before))...)
}

// removeTables removes tables that were not there before and hold nothing now but empty built-in chains. Only the nft variant of
// iptables makes tables on demand and lets go of them, through nft.
func removeTables(program, before string) error {
	nft, err := exec.LookPath("nft")
	if err != nil {
		return nil
	}
	after, err := exec.Command(program + "-save").Output()
	if err != nil {
		return fmt.Errorf("%s-save: %w", program, err)
	}
	full := map[string]bool{}
	for _, line := range tableLines(before) {
		full[line.table] = true
	}
	lines := tableLines(string(after))
	for _, line := range lines {
		if !strings.HasPrefix(line.text, ":") || !strings.Contains(line.text, " ACCEPT ") {
			full[line.table] = true
		}
	}
	family := map[string]string{"iptables": "ip", "ip6tables": "ip6"}[program]
	for _, line := range lines {
		if full[line.table] {
			continue
		}
		full[line.table] = true
		// The legacy variant's tables are unknown to nft: they stay, empty.
		_ = exec.Command(nft, "delete", "table", family, line.table).Run()
	}
	return nil
}

// tableLine is one line of iptables-save with the table it stands in.
type tableLine struct{ table, text string }

// key identifies the line without the counters of a chain.
func (l tableLine) key() string {
	text, _, _ := strings.Cut(l.text, " [")
	return l.table + " " + text
}

func tableLines(rules string) []tableLine {
	var lines []tableLine
	table := ""
	for line := range strings.Lines(rules) {
		line = strings.TrimSpace(line)
		if name, ok := strings.CutPrefix(line, "*"); ok {
			table = name
		} else if strings.HasPrefix(line, ":") || strings.HasPrefix(line, "-A ") {
			lines = append(lines, tableLine{table, line})
		}
	}
	return lines
}

func settingName(path string) string { return strings.ReplaceAll(strings.Trim(path, "/"), "/", "_") }
