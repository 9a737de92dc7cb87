// Package layers holds no code, only the test that keeps the packages in order: each imports only what lies before it on the way of
// the data (docs/architecture.md).
package layers
