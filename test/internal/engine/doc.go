// Package engine runs a Docker Engine that belongs to one test run: the pinned dockerd and containerd with a data root, sockets and
// cgroups of their own, in a mount and a PID namespace and, for tests, in a network namespace. Whatever happens to the process that
// started it, the Engine ends with it, and its containers, mounts, networks, cgroups and files go too. The command test/cmd/engine is
// both the supervisor that Start runs and what make engine calls.
package engine
