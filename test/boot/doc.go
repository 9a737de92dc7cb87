// Package boot tests what preloaded images do on a node's way through life, in a Docker Engine: first starts and restarts, with /var or a
// part of it on volumes, on a read-only root, without any volume, as an image that docker commit made, and over the volume of another
// node image. Images are complete and their containers start, what was removed stays removed, and nothing reaches the image's own files.
package boot
