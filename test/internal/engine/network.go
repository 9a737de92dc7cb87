package engine

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
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

// saveNetwork notes the host's packet filter rules and forwarding settings in dir.
func saveNetwork(dir string) error {
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
// others made meanwhile stay. Without notes in dir there is nothing to do.
func restoreNetwork(dir string) error {
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
