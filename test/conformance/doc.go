// Package conformance holds the test of what nodeimg promises about preloaded images: the tree that a container sees in a node equals
// the tree that containerd itself gives after pulling the same image from its registry. One table of nasty images goes through every
// engine and layout into node images, which are booted in a Docker Engine, and every image is read by a container in them. The
// reference is the real containerd with its overlayfs snapshotter.
package conformance
