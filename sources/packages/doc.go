// Package packages turns names of distribution packages into files with digests and those into root file systems. The host's apt resolves
// and verifies signatures in a private root, mmdebstrap bootstraps a distribution offline from what was fetched, and the tools layer for
// network images is merged in Go from package files. Every result is cached by content, so that doing it again costs nothing.
package packages
