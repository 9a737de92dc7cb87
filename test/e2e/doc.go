// Package e2e tests nodeimg as its users run it: a recipe is built with the real binary, and the image boots as a node that becomes Ready
// with the network cut off, in a Docker Engine on this host and in an emulated machine with cgroup v2.
package e2e
