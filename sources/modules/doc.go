// Package modules is the "kubernetes.source: modules" way to the programs and control-plane images of a node: it compiles them from
// the Go module proxy, with the checksum database on, and packs the images itself. What comes out is named by digest and lies in the
// cache; each project is compiled once per content key, so that resolving again compiles nothing. The table in projects.go says what
// is compiled, at which version, with which flags and where it goes.
package modules
