// Package display draws BuildKit's progress screen for a whole command: steps of nodeimg and steps of any number of solves, one after
// the other or at once. Everything goes in through one progress.Sink. It also remembers how long each step took.
package display
