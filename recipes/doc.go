// Package recipes holds the declarative description of a node image: the versioned Recipe type, how it is read, defaulted and
// validated, and the Lock that resolving it yields. Everything here is a plain value; only Load touches the file system.
// The shipped recipes lie beside the code.
package recipes
