// Package tools finds and compiles the programs that only tests need. They are pinned in modules of their own below test/upstream,
// compiled by the go command and kept below the user's cache directory under a key made of everything that determines them. A
// program appears there by rename, and processes that need the same one wait for each other.
package tools
