// Package trees turns the layers of an image into the directory trees that containerd's overlayfs snapshotter would hold after unpacking
// it, as tar entries for the layers of a node image. Nothing is extracted: layers are read as streams, and what is written does not
// depend on the machine. Whiteouts cannot lie in a node image's layer, so where they delete something the trees below are merged into one.
package trees
