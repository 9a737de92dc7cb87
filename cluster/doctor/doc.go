// Package doctor looks at what building node images and running clusters needs of this host and of the Docker Engine: what works, what does
// not, and what helps. Things that can be tried are tried, in namespaces and mounts that end with the attempt; the host stays as it is. No
// check takes longer than its limit.
package doctor
