// Package cli holds the tests that use the program nodeimg as its users do: as a process, with recipes, registries and outputs that are
// real. It needs root, and shares the user's cache, so that the programs of a recipe are compiled once. The tests run in a mount
// namespace of their own, and fail together when any of them leaves something on the machine.
package cli
