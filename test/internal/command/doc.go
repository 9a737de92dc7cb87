// Package command runs nodeimg for tests as its users run it: the program compiled from this tree, with its own buildkitd beside it.
package command
