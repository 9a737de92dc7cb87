// Package tree describes directory trees down to what a container can tell apart, and says how two of them differ. It reads a tree from
// the file system and writes it as one JSON line per path, so that a program in a container can send what it sees. Nothing in it knows
// of images.
package tree
