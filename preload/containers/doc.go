// Package containers describes preloaded images to CRI-O: it makes the files of an additional image store of containers/storage
// (containers-storage.conf(5), additionalimagestores), in which every layer is a link to a tree that lies in the node image. The library
// that CRI-O 1.36 reads them with, go.podman.io/storage, is the source of the format; names and keys of an image's data are those of
// go.podman.io/image/v5/storage. Nothing is copied or written when the node boots, and the same images give the same files.
package containers
