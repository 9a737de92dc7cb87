// Package upstream stands in for the publishers that the test machines cannot reach: on a loopback port it serves what kubernetes.source
// modules compiled and packed in the layout of dl.k8s.io and of GitHub's releases, and as an OCI registry, with a Debian image that it
// bootstraps from the host's own package sources. So a recipe with source release and base.from image is built from real programs, with
// nothing but mirrors changed. Where kubeadm asks for another version of etcd, CoreDNS or pause than modules made, the fixture answers
// with what there is: its tags are upstream's names, not statements about the content.
package upstream
