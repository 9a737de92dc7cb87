// Package publish brings a finished node image to where the user wants it: an OCI layout folder, an OCI or Docker archive, the Docker
// Engine, registries. Files and folders appear by rename, so that a build that fails or is killed leaves what was there before.
// It also compresses the layers that BuildKit exported, each only once per cache.
package publish
