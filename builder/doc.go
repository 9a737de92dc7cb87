// Package builder turns a Dockerfile with its contexts into an OCI layout by one BuildKit solve. Whoever reaches a BuildKit implements
// Builder: builder/child starts a daemon of its own, builder/remote dials an address. Solve knows nothing of recipes; a failing step
// comes back as a *StepError with Dockerfile lines, which the caller maps to its own source.
package builder
