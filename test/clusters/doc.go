// Package clusters tests clusters as users make and change them: the real binary, a Docker Engine whose published ports this host
// reaches, the shipped node images, and every fault that must be survived. Most tests share one Engine and one image.
package clusters
