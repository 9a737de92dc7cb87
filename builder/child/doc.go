// Package child is a builder that starts a buildkitd of its own and stops it again; its state stays in the cache. The daemon runs below
// a small init, the calling program started once more, in a process and a mount namespace of its own: when the init ends, for whatever
// reason, the kernel ends every process of every build step and drops every mount; with Sysbox, whose daemons must see both, there are no
// such namespaces, and the init or the next starter does the same by hand. The init ends when its starter closes it or dies.
package child
