// Package node runs node images as containers of a Docker Engine for the end-to-end tests: it loads an image, makes networks without
// a way out, starts privileged nodes with the options that stock kind uses, and runs commands in them. Whatever it makes it can
// remove. It is the tests' only package that imports github.com/docker/docker.
package node
