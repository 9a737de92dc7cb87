// Package registry starts registries for tests: the real one of go-containerregistry, in this process and on loopback.
package registry
