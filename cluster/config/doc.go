// Package config holds the description of a cluster: its Go types, strict reading from YAML, defaults and validation. It knows nothing of
// any Engine. What is wrong with a description comes back as a *recipes.InputError.
package config
