// Package nodeimage runs the whole way of the data: a recipe is resolved to a lock, compiled to a Dockerfile, solved by BuildKit, completed
// with the store's index and databases, checked against the lock and published. Every step is another package's; the order, the temporary
// files and the error frames are kept here.
package nodeimage
