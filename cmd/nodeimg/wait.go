package main

import (
	"errors"
	"time"

	"github.com/spf13/pflag"
)

// waitFlag is a time to wait, of which there has to be some.
type waitFlag time.Duration

// registerWait registers --wait, which is five minutes unless given.
func registerWait(flags *pflag.FlagSet, wait *time.Duration, usage string) {
	*wait = 5 * time.Minute
	flags.Var((*waitFlag)(wait), "wait", usage)
}

// String implements pflag.Value.
func (w *waitFlag) String() string { return time.Duration(*w).String() }

// Type implements pflag.Value.
func (w *waitFlag) Type() string { return "duration" }

// Set implements pflag.Value.
func (w *waitFlag) Set(text string) error {
	wait, err := time.ParseDuration(text)
	if err != nil {
		return err
	}
	if wait <= 0 {
		return errors.New("expected more than 0, such as 5m")
	}
	*w = waitFlag(wait)
	return nil
}
