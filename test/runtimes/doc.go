// Package runtimes tests preloaded images with the container runtimes that are not containerd itself: a real Docker Engine with
// containerd's image store, and the tools of containers/storage, each on a store that was written as a node image has it.
package runtimes
