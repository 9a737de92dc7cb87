// Package separate gives a test program a mount namespace of its own: what other programs mount does not show there, and what the tests
// mount is gone with the last of their processes.
package separate
