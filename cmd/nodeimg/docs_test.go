package main

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/cobra"
	"github.com/spf13/cobra/doc"
)

// The reference pages are written by the test that checks them: the generator would otherwise be part of the program.
//go:generate go test -run ^TestReferencePages$ . -update

// referencePages is where the pages lie, one for each command.
const referencePages = "../../docs/cli"

// commands returns the whole command tree of nodeimg.
func commands() *cobra.Command {
	root := newRootCommand()
	// Cobra adds these two only when a command line is executed.
	root.InitDefaultHelpCmd()
	root.InitDefaultCompletionCmd()
	return root
}

// TestReferencePages fails when the commands changed and "make docs" was not run.
func TestReferencePages(t *testing.T) {
	root := commands()
	root.DisableAutoGenTag = true // It holds the day.
	fresh := t.TempDir()
	if err := doc.GenMarkdownTree(root, fresh); err != nil {
		t.Fatal(err)
	}
	want := read(t, fresh)
	for name, page := range want {
		want[name] = append(bytes.TrimRight(page, "\n"), '\n')
	}
	if *update {
		if err := os.RemoveAll(referencePages); err != nil {
			t.Fatal(err)
		}
		if err := os.MkdirAll(referencePages, 0o755); err != nil {
			t.Fatal(err)
		}
		for name, page := range want {
			if err := os.WriteFile(filepath.Join(referencePages, name), page, 0o644); err != nil {
				t.Fatal(err)
			}
		}
	}
	if diff := cmp.Diff(texts(want), texts(read(t, referencePages))); diff != "" {
		t.Errorf("docs/cli is stale, run \"make docs\" (-want +got):\n%s", diff)
	}
}

// read returns the files of a folder by name.
func read(t *testing.T, dir string) map[string][]byte {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	files := map[string][]byte{}
	for _, entry := range entries {
		if files[entry.Name()], err = os.ReadFile(filepath.Join(dir, entry.Name())); err != nil {
			t.Fatal(err)
		}
	}
	return files
}

func texts(files map[string][]byte) map[string]string {
	all := map[string]string{}
	for name, text := range files {
		all[name] = string(text)
	}
	return all
}
