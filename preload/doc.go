// Package preload gets container images into a node image: it finds them in registries, archives, layouts and the Docker Engine, serves
// exactly those to the build through the broker, and describes them to containerd, for its CRI plugin or for Docker, in the store's index
// and databases. A Lock names every image by digest, so nothing that was not resolved can be served, and what a build made is checked
// against the Lock again. Blobs travel only through the content-addressed cache and are verified before anyone sees them.
package preload
