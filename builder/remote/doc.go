// Package remote reaches a BuildKit daemon that somebody else runs, by its address. The daemon is neither started nor stopped. An
// address that cannot be one is refused at once; one that does not answer within seconds is reported with the setting it came from.
package remote
