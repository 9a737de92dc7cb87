// Package application makes the container image of a user's application, the smallest one that can be seen to work: a program that
// answers HTTP on port 8080 with a greeting. Tests bake it into node images, load it into running nodes and ask it from outside. It
// needs no registry and nothing of a distribution.
package application
