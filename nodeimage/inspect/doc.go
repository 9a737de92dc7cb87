// Package inspect says what a node image is and holds: Kubernetes, distribution, container runtime, preloaded images, layers. It reads
// manifest and config only, wherever the image lies: in a registry, an OCI layout folder, an OCI archive or a docker-archive.
package inspect
