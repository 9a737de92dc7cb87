package main

import (
	"errors"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/spf13/cobra"

	"github.com/nodeimg/nodeimg/dockerfiles"
	"github.com/nodeimg/nodeimg/recipes"
)

// repository is the root of the checkout.
const repository = "../.."

// page is one text that people read, with what stands in it.
type page struct {
	// path is relative to the repository's root.
	path string
	// links are the targets of Markdown links, anchors the headings' names as renderers make them.
	links, anchors []string
	// code are lines of code blocks and the content of code spans.
	code []string
	// recipes are code blocks that are whole recipes.
	recipes []string
}

var (
	codeSpan   = regexp.MustCompile("`([^`\n]+)`")
	link       = regexp.MustCompile(`\[[^\]]*\]\(([^)\s]+)\)`)
	anchorDrop = regexp.MustCompile(`[^a-z0-9 _-]`)
	// recipeCommand is a command in the comments of a recipe: indented, unlike their prose.
	recipeCommand = regexp.MustCompile(`(?m)^\s*#   +(nodeimg .*)$`)
	// commandLine is nodeimg at the start of a line of code or where the shell starts a command.
	commandLine = regexp.MustCompile(`(?:^|&& |\| |\$\()(?:bin/)?nodeimg( [^|>&;#)]*)`)
	recipeBlock = regexp.MustCompile("(?s)```yaml\n([^`]*?apiVersion:.*?)```")
	makeLine    = regexp.MustCompile(`^make((?: [a-z0-9-]+)+)`)
)

// pages reads everything that explains nodeimg: Markdown, and recipes for the commands in their comments.
func pages(t *testing.T) []page {
	t.Helper()
	var all []page
	for _, pattern := range []string{"*.md", "docs/*.md", "docs/*/*.md", "recipes/*.yaml", "recipes/template/*.yaml"} {
		files, err := filepath.Glob(filepath.Join(repository, pattern))
		if err != nil {
			t.Fatal(err)
		}
		for _, file := range files {
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			path, err := filepath.Rel(repository, file)
			if err != nil {
				t.Fatal(err)
			}
			p := page{path: path}
			if strings.HasSuffix(path, ".md") {
				p.readMarkdown(string(text))
			} else {
				for _, match := range recipeCommand.FindAllStringSubmatch(string(text), -1) {
					p.code = append(p.code, match[1])
				}
			}
			all = append(all, p)
		}
	}
	return all
}

func (p *page) readMarkdown(text string) {
	for _, match := range recipeBlock.FindAllStringSubmatch(text, -1) {
		p.recipes = append(p.recipes, match[1])
	}
	fenced := false
	for line := range strings.Lines(text) {
		line = strings.TrimRight(line, "\n")
		switch {
		case strings.HasPrefix(strings.TrimSpace(line), "```"):
			fenced = !fenced
		case fenced || strings.HasPrefix(line, "    "):
			p.code = append(p.code, strings.TrimSpace(line))
		default:
			if title, ok := strings.CutPrefix(strings.TrimLeft(line, "#"), " "); ok && strings.HasPrefix(line, "#") {
				p.anchors = append(p.anchors, strings.ReplaceAll(anchorDrop.ReplaceAllString(strings.ToLower(title), ""), " ", "-"))
			}
			for _, match := range codeSpan.FindAllStringSubmatch(line, -1) {
				p.code = append(p.code, match[1])
			}
			for _, match := range link.FindAllStringSubmatch(codeSpan.ReplaceAllString(line, "code"), -1) {
				p.links = append(p.links, match[1])
			}
		}
	}
}

func TestLinksLeadSomewhere(t *testing.T) {
	all := pages(t)
	count := 0
	for _, p := range all {
		for _, target := range p.links {
			if strings.Contains(target, "://") {
				continue
			}
			count++
			file, anchor, hasAnchor := strings.Cut(target, "#")
			path := p.path
			if file != "" {
				path = filepath.Join(filepath.Dir(p.path), file)
			}
			if _, err := os.Stat(filepath.Join(repository, path)); errors.Is(err, fs.ErrNotExist) {
				t.Errorf("%s links to %s, which does not exist", p.path, target)
				continue
			}
			if i := slices.IndexFunc(all, func(q page) bool { return q.path == path }); hasAnchor && (i < 0 || !slices.Contains(all[i].anchors, anchor)) {
				t.Errorf("%s links to %s, but %s has no such heading", p.path, target, path)
			}
		}
	}
	if count < 20 {
		t.Errorf("found %d links: this test looks at the wrong files", count)
	}
}

// TestMentionedCommandsExist holds that whoever copies a command from a page finds command and flags.
func TestMentionedCommandsExist(t *testing.T) {
	root := commands()
	count := 0
	for _, p := range pages(t) {
		for _, line := range p.code {
			for _, match := range commandLine.FindAllStringSubmatch(line, -1) {
				count++
				if err := checkMention(root, strings.Fields(match[1])); err != nil {
					t.Errorf("%s: %q: %v", p.path, line, err)
				}
			}
		}
	}
	if count < 20 {
		t.Errorf("found %d commands: this test looks at the wrong files", count)
	}
}

func checkMention(root *cobra.Command, arguments []string) error {
	cmd, rest, err := root.Find(arguments)
	if err != nil {
		return err
	}
	if cmd == root && len(rest) > 0 && !strings.HasPrefix(rest[0], "-") && !strings.HasPrefix(rest[0], "[") {
		return errors.New("there is no such command")
	}
	cmd.InitDefaultHelpFlag()
	for _, argument := range rest {
		name, isFlag := strings.CutPrefix(argument, "-")
		if !isFlag || name == "" || cmd.DisableFlagParsing {
			continue
		}
		name, _, _ = strings.Cut(name, "=")
		if long, isLong := strings.CutPrefix(name, "-"); isLong && cmd.Flags().Lookup(long) != nil {
			continue
		} else if !isLong && cmd.Flags().ShorthandLookup(name[:1]) != nil {
			continue
		}
		return errors.New(cmd.CommandPath() + " has no flag " + argument)
	}
	return nil
}

func TestRecipesInPagesAreValid(t *testing.T) {
	count := 0
	for _, p := range pages(t) {
		for _, text := range p.recipes {
			count++
			if _, err := recipes.Load("-", strings.NewReader(text)); err != nil {
				t.Errorf("%s: the recipe in it: %v", p.path, err)
			}
		}
	}
	if count < 2 {
		t.Errorf("found %d recipes: this test looks at the wrong files", count)
	}
}

// foreignFlags are flags of other programs that the pages explain.
var foreignFlags = []string{
	"--privileged", "--cri-socket", "--cgroupns", "--tmpfs", "--hostname", "--runtime", "--config", "--network", "--load", "--set", "--read-only",
}

// TestMentionedFlagsExist looks at flags that stand alone in a code span.
func TestMentionedFlagsExist(t *testing.T) {
	known := func(flag string) bool {
		return slices.Contains(foreignFlags, flag) || slices.ContainsFunc(commands().Commands(), func(cmd *cobra.Command) bool {
			return cmd.Flags().Lookup(strings.TrimPrefix(flag, "--")) != nil
		})
	}
	count := 0
	for _, p := range pages(t) {
		if strings.HasPrefix(p.path, "docs/cli") {
			continue
		}
		for _, text := range p.code {
			if !strings.HasPrefix(text, "--") {
				continue
			}
			count++
			name := strings.FieldsFunc(text, func(r rune) bool { return r == ' ' || r == '=' })[0]
			if name != "---" && !known(name) {
				t.Errorf("%s: %q: no command of nodeimg has the flag %s", p.path, text, name)
			}
		}
	}
	if count < 10 {
		t.Errorf("found %d flags: this test looks at the wrong files", count)
	}
}

func TestMentionedTargetsExist(t *testing.T) {
	makefile, err := os.ReadFile(filepath.Join(repository, "Makefile"))
	if err != nil {
		t.Fatal(err)
	}
	count := 0
	for _, p := range pages(t) {
		for _, line := range p.code {
			match := makeLine.FindStringSubmatch(line)
			if match == nil {
				continue
			}
			for _, target := range strings.Fields(match[1]) {
				count++
				if !strings.Contains(string(makefile), "\n"+target+":") {
					t.Errorf("%s: %q: the Makefile has no target %s", p.path, line, target)
				}
			}
		}
	}
	if count < 10 {
		t.Errorf("found %d targets: this test looks at the wrong files", count)
	}
}

// TestTroubleshootingQuotesMessages holds that the messages that docs/building.md explains are still those that nodeimg prints.
func TestTroubleshootingQuotesMessages(t *testing.T) {
	var sources strings.Builder
	for _, room := range []string{"internal", "recipes", "preload", "sources", "builder", "nodeimage"} {
		err := filepath.WalkDir(filepath.Join(repository, room), func(path string, _ fs.DirEntry, err error) error {
			if err != nil || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
				return err
			}
			text, err := os.ReadFile(path)
			sources.Write(text)
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	text, err := os.ReadFile(filepath.Join(repository, "docs/building.md"))
	if err != nil {
		t.Fatal(err)
	}
	_, table, _ := strings.Cut(string(text), "## Troubleshooting")
	count := 0
	for row := range strings.Lines(table) {
		match := codeSpan.FindStringSubmatch(row)
		if match == nil || !strings.HasPrefix(row, "| `") {
			continue
		}
		for part := range strings.SplitSeq(match[1], "…") {
			count++
			// The kernel's own message stands in no source.
			if part = strings.Trim(part, " :"); !strings.Contains(sources.String(), part) && part != syscall.ENOSPC.Error() {
				t.Errorf("docs/building.md explains the message %q, but no message has %q in it", match[1], part)
			}
		}
	}
	if count < 15 {
		t.Errorf("found %d messages: this test looks at the wrong table", count)
	}
}

// TestLabelsAreExplained compares the table in docs/node-image.md with the labels that images get, from a build or a change after it.
func TestLabelsAreExplained(t *testing.T) {
	labels, err := dockerfiles.Labels(recipes.Recipe{}, recipes.Lock{})
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(filepath.Join(repository, "docs/node-image.md"))
	if err != nil {
		t.Fatal(err)
	}
	var explained []string
	for _, match := range regexp.MustCompile("(?m)^\\| `(dev\\.nodeimg\\.[a-z]+)` \\|").FindAllSubmatch(text, -1) {
		explained = append(explained, string(match[1]))
	}
	slices.Sort(explained)
	labels[recipes.LabelChanged] = ""
	if want := slices.Sorted(maps.Keys(labels)); !slices.Equal(explained, want) {
		t.Errorf("docs/node-image.md explains the labels %v, images have %v", explained, want)
	}
}
