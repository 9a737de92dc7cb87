// Package release takes the programs of a node from where their projects publish them (kubernetes.source release): every download is
// checked against the sha256 that the project publishes beside it, or that nodeimg knows where there is none, and every program lies in
// the cache under its own digest. The control-plane images are those that the release's own kubeadm names.
package release
