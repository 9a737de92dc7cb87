// Package sources resolves a recipe: it finds every input, gets its bytes into the cache or learns where they are, and returns the Lock
// that names all of them by digest. Its sub-packages are the places that inputs come from: release (the release server), modules (the
// Go module proxy) and packages (the distribution's archive); images come through package preload.
package sources
