// Package dockerfiles compiles a recipe and its lock into a Dockerfile, the build contexts that it names, and a map from the
// Dockerfile's lines back to the recipe's fields. Compiling is a pure function: equal input gives equal bytes, nothing is read or
// written. The templates and the files that run in the node or in a build step lie below node/, embedded.
package dockerfiles
